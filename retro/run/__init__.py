"""What a run stands on: its folder, files of models and tokenizers, options, processes, device."""
