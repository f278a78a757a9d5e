"""Lets Forge and reForge open checkpoints of SD1's layout and another size, such as SeAl's embedded model.

AUTOMATIC1111's WebUI builds a model as the `.yaml` beside it says. These two know only the sizes that are common.
"""
