"""SeAl as an always-on script of AUTOMATIC1111's WebUI and Forge: wiring only."""

from modules import errors, scripts

from seal_ext.ui import absent

try:
    from modules import script_callbacks
    from modules.ui_components import InputAccordion

    from seal_ext import api, request
    from seal_ext.hosts.webui import asking, inner, options, process_state, session, xyz
    from seal_ext.hosts.webui.controlnet import align as controlnet
    from seal_ext.settings import SettingsError
    from seal_ext.ui import accordion, webui
except ImportError as error:  # in a relative of these WebUIs that lacks what SeAl is made for
    lacking = absent.sentence(error)
    errors.report(lacking, exc_info=True)
else:
    lacking = ""


class AbsentScript(scripts.Script):
    """What there is of SeAl where it cannot work."""

    def title(self):
        return "SeAl"

    def show(self, is_img2img):
        return scripts.AlwaysVisible if lacking else False

    def ui(self, is_img2img):
        return absent.draw(lacking, self.elem_id)

    def before_process(self, p, *args):
        if any(args):  # over the API: the page's own argument is off
            p.comment(lacking)


class SealScript(scripts.Script):
    page = None  # the accordion, while the WebUI builds its page

    def title(self):
        return "SeAl"

    def show(self, is_img2img):
        return False if lacking else scripts.AlwaysVisible

    def ui(self, is_img2img):
        try:
            self.page = drawn = accordion.draw(InputAccordion, self.elem_id, "img2img" if is_img2img else "txt2img")
        except Exception as error:  # without its arguments, SeAl would be given those of all other scripts
            errors.report("SeAl's page could not be drawn", exc_info=True)
            return absent.draw(f"SeAl cannot show its controls in this WebUI ({error}). Its API works.", self.elem_id)
        self.infotext_fields, self.paste_field_names = drawn.infotext_fields, drawn.paste_field_names
        return drawn.components

    def after_component(self, component, **kwargs):
        if self.page is not None:
            self.page.seen(component, webui)

    def before_process(self, p, *args):
        if session.is_asked_again(p):
            return
        session.end(p)
        try:
            asked = inner.for_inner_pass(p, xyz.changed(p, request.parse(args, process_state.known_ways)))
            if asked.settings.enabled:
                for note in asked.settings.notes:
                    p.comment(note)
                begun = session.begin(p, asked)
                begun.align(controlnet.align_units(p, begun.references, begun.settings, begun.note))
            else:
                session.without(p)
        except SettingsError as refusal:
            session.end(p)
            session.refuse(p, str(refusal), refusal.named)
        except Exception as error:
            session.end(p)
            errors.report("SeAl could not begin", exc_info=True)
            session.refuse(p, f"SeAl could not start because of an error ({type(error).__name__}: {str(error)[:200]}).")

    def process_batch(self, p, *args, **kwargs):
        begun = session.of(p)
        if begun is not None:
            p.extra_generation_params.update(begun.infotext() | controlnet.infotext(begun.structures))

    def process_before_every_sampling(self, p, *args, **kwargs):
        begun = session.of(p)
        if begun is not None:
            begun.before_sampling(kwargs.get("x"))

    def post_sample(self, p, *args):
        begun = session.of(p)
        if begun is not None:
            begun.end_pass()

    def postprocess(self, p, processed, *args):
        begun = session.of(p)
        if begun is not None and begun.p is p:  # and no copy, with which an extension asks in the middle
            begun.add_pictures(processed)
            session.end(p)


def add_routes(demo, app):
    if options.has_api():
        api.mount(app, options.guards(app), asking.waiting)


if not lacking:
    try:
        # Once, at import, and never for a single run: they do nothing while no generation has a Session.
        script_callbacks.on_cfg_denoiser(session.on_cfg_denoiser)
        script_callbacks.on_cfg_denoised(session.on_cfg_denoised)
        script_callbacks.on_before_ui(xyz.register)
        script_callbacks.on_ui_settings(options.add_section)
        script_callbacks.on_app_started(add_routes)
        script_callbacks.on_model_loaded(session.on_model_loaded)
        script_callbacks.on_script_unloaded(process_state.clear)
        script_callbacks.on_script_unloaded(session.hear_unloading())
        options.settle()
        process_state.detectors = controlnet.detectors
    except AttributeError as error:
        lacking = absent.sentence(error)
        errors.report(lacking, exc_info=True)
