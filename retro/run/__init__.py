"""What a run stands on: its folder and files, options, processes, device, random numbers."""
