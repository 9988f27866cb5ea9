"""A widget as a page of its own: HTML with the data and the script that draws it. No network, no libraries."""

import base64
import hashlib
import html
import json


def scripted(kind: str, key: str, data: dict, script: str, alt: str, png: bytes) -> str:
    """The still picture, in a host that the script finds and takes over; where scripts are taken away, the picture remains.

    The host has the class mm-KIND, and data-KEY names the data, so that the same widget twice on a page is drawn twice from
    its own. In the script KEY_NAME and KEY_DATA, in capitals, stand for the two. The same data give the same bytes.
    """
    whole = json.dumps(data, separators=(",", ":"))
    name = hashlib.sha256(whole.encode()).hexdigest()[:12]
    still = base64.b64encode(png).decode()
    return (
        f'<div class="mm-{kind}" data-{key}="{name}"><img alt="{html.escape(alt)}" src="data:image/png;base64,{still}"></div>'
        f"<script>{script.replace(f'{key.upper()}_NAME', name).replace(f'{key.upper()}_DATA', whole)}</script>"
    )
