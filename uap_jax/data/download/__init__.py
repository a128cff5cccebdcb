"""Archives of corpora: downloaded, checked, unpacked."""

from uap_jax.data.download.archives import ARCHIVES
from uap_jax.data.download.fetching import install, part_path
from uap_jax.data.download.unpacking import DownloadError, Installed

__all__ = ["ARCHIVES", "DownloadError", "Installed", "install", "part_path"]
