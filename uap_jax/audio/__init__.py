"""Waveforms, the box that attacks work in, sound levels and audio files."""

# How a waveform becomes a clip in the box; see `box`.
SCALINGS = ("fixed", "peak", "minmax")
