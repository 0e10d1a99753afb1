"""Other people's models: opening and exporting them, chat frames, actors behind an API."""
