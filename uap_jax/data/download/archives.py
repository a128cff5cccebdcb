"""Archives of corpora: addresses, licences and checksums."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Archive:
    """An archive that holds a corpus."""

    file_name: str  # Name of the archive; its suffix says how it is packed.
    url: str  # Address.
    licence: str  # Licence of the recordings.
    source: str  # Where these facts are from.
    checksum: str | None  # "sha256:" or "md5:" and hexadecimal digits; None if unknown.
    num_bytes: int | None  # Size; None if not known exactly.
    dataset: str  # The corpus's name in `corpora.CORPUS_NAMES`.


_SPEECH_COMMANDS = {
    "licence": "CC BY 4.0",
    "source": "TensorFlow Datasets, url_checksums/speech_commands.txt",
    "dataset": "speech_commands",
}
_SPEECH_COMMANDS_HOST = "https://download.tensorflow.org/data/"

# By the name of the folder that they unpack to.
ARCHIVES = {
    "speech_commands_v0.02": Archive(
        file_name="speech_commands_v0.02.tar.gz",
        url=f"{_SPEECH_COMMANDS_HOST}speech_commands_v0.02.tar.gz",
        checksum="sha256:"
        "af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58",
        num_bytes=2_428_923_189,
        **_SPEECH_COMMANDS,
    ),
    "speech_commands_v0.01": Archive(
        file_name="speech_commands_v0.01.tar.gz",
        url=f"{_SPEECH_COMMANDS_HOST}speech_commands_v0.01.tar.gz",
        checksum="sha256:"
        "743935421bb51cccdb6bdd152e04c5c70274e935c82119ad7faeec31780d811d",
        num_bytes=None,
        **_SPEECH_COMMANDS,
    ),
    "speech_commands_test_set_v0.02": Archive(
        file_name="speech_commands_test_set_v0.02.tar.gz",
        url=f"{_SPEECH_COMMANDS_HOST}speech_commands_test_set_v0.02.tar.gz",
        checksum="sha256:"
        "cc2a00c1147c2254e9be3fa0f779d8c17421dc349b86366567a8edfa9acd51df",
        num_bytes=112_563_277,
        **_SPEECH_COMMANDS,
    ),
    "urbansound8k": Archive(
        file_name="UrbanSound8K.tar.gz",
        url="https://zenodo.org/records/1203745/files/UrbanSound8K.tar.gz",
        licence="CC BY-NC 3.0, as its readme says",
        source="Zenodo record 1203745; checksum from soundata",
        checksum="md5:9aa69802bbf37fb986f71ec1483a196e",
        num_bytes=None,
        dataset="urbansound8k",
    ),
    # GitHub packs the latest state anew, so size and checksum are not fixed.
    "esc50": Archive(
        file_name="ESC-50-master.zip",
        url="https://github.com/karolpiczak/ESC-50/archive/master.zip",
        licence="CC BY-NC 3.0 (the ten classes of ESC-10: CC BY 3.0)",
        source="README and LICENSE of github.com/karolpiczak/ESC-50",
        checksum=None,
        num_bytes=None,
        dataset="esc50",
    ),
}
