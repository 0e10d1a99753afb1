"""Rooms for other models: their folders and tokenizers, chat, and models behind an API."""
