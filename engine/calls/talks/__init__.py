"""The conversations a call can hold: ear, mind and voice; one speech-to-speech model; words alone."""
