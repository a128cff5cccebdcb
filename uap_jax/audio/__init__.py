"""Waveforms, the box that attacks work in, sound levels and audio files."""
