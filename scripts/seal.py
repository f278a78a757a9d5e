"""SeAl as an always-on script of AUTOMATIC1111's WebUI: wiring only."""

from modules import errors, script_callbacks, scripts
from modules.ui_components import InputAccordion

from seal_ext import request
from seal_ext.hosts import a1111, controlnet
from seal_ext.settings import SettingsError
from seal_ext.ui import accordion


class SealScript(scripts.Script):
    def title(self):
        return "SeAl"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        drawn = accordion.draw(InputAccordion, self.elem_id)
        self.infotext_fields, self.paste_field_names = drawn.infotext_fields, drawn.paste_field_names
        return drawn.components

    def before_process(self, p, *args):
        a1111.end(p)
        if getattr(p, "_ad_inner", False):  # another extension's inner pass draws a face, not the character
            return
        try:
            asked = request.parse(args)
            if asked.settings.enabled:
                controlnet.align_units(a1111.begin(p, asked))
        except SettingsError as refusal:
            a1111.end(p)
            a1111.refuse(p, str(refusal))
        except Exception as error:
            a1111.end(p)
            errors.report("SeAl could not begin", exc_info=True)
            a1111.refuse(p, f"SeAl could not begin because of an error ({type(error).__name__}: {str(error)[:200]}).")

    def process_batch(self, p, *args, **kwargs):
        seal = a1111.of(p)
        if seal is not None:
            p.extra_generation_params.update(seal.infotext() | controlnet.infotext(seal))

    def process_before_every_sampling(self, p, *args, **kwargs):
        seal = a1111.of(p)
        if seal is not None:
            seal.before_sampling()

    def post_sample(self, p, *args):
        seal = a1111.of(p)
        if seal is not None:
            seal.end_pass()

    def postprocess(self, p, processed, *args):
        seal = a1111.of(p)
        if seal is not None:
            seal.add_pictures(processed)
            a1111.end(p)


# Once, at import, and never for a single run: they do nothing while no generation has a Seal.
script_callbacks.on_cfg_denoiser(a1111.on_cfg_denoiser)
script_callbacks.on_cfg_denoised(a1111.on_cfg_denoised)
