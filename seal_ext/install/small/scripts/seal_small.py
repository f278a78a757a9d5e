"""The WebUI's way into `seal_small`. Checkpoints are read later than scripts, so this is early enough."""

from importlib.util import find_spec

if find_spec("huggingface_guess"):  # Forge
    import seal_small.forge
elif find_spec("ldm_patched"):  # reForge and Forge Classic
    import seal_small.reforge  # noqa: F401 - importing it is all there is to do; AUTOMATIC1111's WebUI needs nothing
