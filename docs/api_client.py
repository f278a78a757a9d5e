"""A picture of a character in a new pose, over the WebUI's API. It needs Python and nothing else.

    python docs/api_client.py --reference knight.png --pose pose.png --model "control_v11p_sd15_openpose [cab727d4]" \\
        --prompt "a knight, waving" --out waving.png

The WebUI runs with --api. Where it also has --api-auth, give --auth user:password. `--pose` is a map as ControlNet takes it; for a photo
add the preprocessor's name, such as --module openpose_full. Where it is a ready-made skeleton, give the reference's own, too.
"""

import argparse
import base64
import json
import sys
import urllib.error
import urllib.request
from pathlib import Path


class Refused(Exception):
    """What the WebUI said in place of an answer."""


def call(url, route, body=None, auth=None, method=None):
    """One request, and its answer."""
    headers = {"Content-Type": "application/json"}
    if auth:
        headers["Authorization"] = "Basic " + base64.b64encode(auth.encode()).decode()
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url.rstrip("/") + route, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=3600) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        said = error.read().decode(errors="replace")
        try:
            said = json.loads(said)
            said = said["detail"] or said["errors"]  # a refusal, or an error inside
        except (ValueError, KeyError, TypeError):
            said = said[:300]
        raise Refused(f"{error.code}: {said}") from None


def text_of(file):
    """A picture as the API takes it: base64 in JSON, never a path."""
    return base64.b64encode(Path(file).read_bytes()).decode()


def draw(url, prompt, reference, pose=None, model="None", module="none", seal=None, auth=None, **more):
    """The first picture's bytes, and the parameters it was made with. `seal` holds more of SeAl's settings, `more` the WebUI's own."""
    scripts = {"seal": {"args": [{"reference": text_of(reference), **(seal or {})}]}}
    if pose is not None:
        unit = {"enabled": True, "image": text_of(pose), "module": module, "model": model}
        scripts["ControlNet"] = {"args": [unit]}
    answer = call(url, "/sdapi/v1/txt2img", {"prompt": prompt, "alwayson_scripts": scripts, **more}, auth)
    return base64.b64decode(answer["images"][0]), json.loads(answer["info"])["infotexts"][0]


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:7860")
    parser.add_argument("--auth", help="user:password, as in --api-auth")
    parser.add_argument("--reference", required=True, help="a picture of the character")
    parser.add_argument("--reference-pose", help="that character's own skeleton, where --pose is one")
    parser.add_argument("--pose", help="the structure of a ControlNet unit")
    parser.add_argument("--model", default="None", help="that unit's model")
    parser.add_argument("--module", default="none", help="that unit's preprocessor")
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--settings", type=json.loads, default={}, help='more of SeAl\'s settings as JSON, such as {"strength": 0.8}')
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=-1)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--height", type=int, default=512)
    parser.add_argument("--out", default="out.png")
    given = parser.parse_args(words)
    try:
        unit, more = (given.pose, given.model, given.module), {name: vars(given)[name] for name in ("steps", "seed", "width", "height")}
        posed = {"reference_pose": text_of(given.reference_pose)} if given.reference_pose else {}
        picture, parameters = draw(given.url, given.prompt, given.reference, *unit, posed | given.settings, given.auth, **more)
    except (Refused, OSError) as error:
        sys.exit(f"error: {error}")
    Path(given.out).write_bytes(picture)
    print(parameters)


if __name__ == "__main__":
    main()
