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


def _speech_commands(version: str, sha256: str, num_bytes: int | None) -> Archive:
    file_name = f"speech_commands_{version}.tar.gz"
    return Archive(
        file_name,
        url=f"https://download.tensorflow.org/data/{file_name}",
        licence="CC BY 4.0",
        source="TensorFlow Datasets, url_checksums/speech_commands.txt",
        checksum=f"sha256:{sha256}",
        num_bytes=num_bytes,
        dataset="speech_commands",
    )


# By the name of the folder that they unpack to.
ARCHIVES = {
    "speech_commands_v0.02": _speech_commands(
        "v0.02",
        "af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58",
        2_428_923_189,
    ),
    "speech_commands_v0.01": _speech_commands(
        "v0.01",
        "743935421bb51cccdb6bdd152e04c5c70274e935c82119ad7faeec31780d811d",
        None,
    ),
    "speech_commands_test_set_v0.02": _speech_commands(
        "test_set_v0.02",
        "cc2a00c1147c2254e9be3fa0f779d8c17421dc349b86366567a8edfa9acd51df",
        112_563_277,
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
