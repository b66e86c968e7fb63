"""The pictures of the block types. Prefect takes http(s) URLs only, so these are fixed versions of public pictures.

Those of S3, Google, Azure and disks are the ones Prefect's own blocks show. Without the internet the page shows none.
"""

from __future__ import annotations

from typing import Final

from pydantic import HttpUrl

_SANITY = "https://cdn.sanity.io/images/3ugk85nk/production"
_PREFECT = (
    "https://raw.githubusercontent.com/PrefectHQ/prefect/420d0d6a78bb6df1fc18bcf188fdad43c1d22ea9/assets/block-logos"
)

S3_LOGO: Final = HttpUrl(f"{_SANITY}/d74b16fe84ce626345adf235a47008fea2869a60-225x225.png")
GCS_LOGO: Final = HttpUrl(f"{_SANITY}/10424e311932e31c477ac2b9ef3d53cefbaad708-250x250.png")
AZURE_LOGO: Final = HttpUrl(f"{_SANITY}/54e3fa7e00197a4fbd1d82ed62494cb58d08c96a-250x250.png")
LOCAL_LOGO: Final = HttpUrl(f"{_PREFECT}/filesystem.png")
ICLOUD_LOGO: Final = HttpUrl(
    "https://raw.githubusercontent.com/simple-icons/simple-icons/384447aca37491580f6f62a6ff9db2cf13a48f49"
    "/icons/icloud.svg"
)
KEY_LOGO: Final = HttpUrl(f"{_PREFECT}/secret.png")
