// The preview in SeAl's accordion: what of the reference counts, where AnchorAlign puts the structure, the hand that corrects it, and the
// brush that corrects the outline. Python looks and computes (seal_ext/ui/preview.py); this draws, and moves what is drawn without asking
// Python. All text is Python's.

(() => {
    "use strict";

    const PAUSE = 400, AT_ONCE = 30; // ms without a change before Python looks again; what is dropped is looked at immediately
    const GIVEN_UP = 60000; // ms after which an answer is not waited for any more
    const LATER = 2500; // ControlNet's units reach Python by events of their own: look once more when they have
    const STEP = 0.005, STRIDE = 0.05, GROW = 1.02; // of an arrow key, with shift, of + and −
    const NEAR = 0.004; // of the reference: points of a stroke that are nearer are not kept
    const TALLEST = 420; // CSS pixels
    const LIMITS = {x: [-1, 1, 0.005], y: [-1, 1, 0.005], scale: [0.25, 4, 0.01]};
    const PARTS = {x: "handX", y: "handY", scale: "handScale"};
    const JUST = 2000; // ms within which a picture has come just now
    const LOST = 0.02; // of a pose: what the hand may push out of the picture without a word
    const stages = {};

    const byId = (id) => gradioApp().getElementById ? gradioApp().getElementById(id) : document.getElementById(id);

    // What stands in a slot.
    const pictures = (slot) => [...slot?.querySelectorAll("img") || []].map((image) => image.src).join();

    // The share of a box that the picture holds.
    const inside = ([x0, y0, x1, y1], wide, tall) => {
        const within = (low, high, end) => Math.max(0, Math.min(high, end) - Math.max(low, 0)) / Math.max(1e-6, high - low);
        return within(x0, x1, wide) * within(y0, y1, tall);
    };

    class Stage {
        constructor(root) {
            this.root = root;
            this.canvas = root.querySelector("canvas");
            this.hand = {x: 0, y: 0, scale: 1};
            this.seen = null; // what Python sent, with its pictures loaded
            this.thorough = false; // somebody pressed the button that also runs preprocessors
            this.known = ""; // what stands in the reference's slot
            this.former = {there: "", when: 0}; // what stood there before, until when
            this.timers = {};
            this.asked = {}; // when Python was asked something that it has not answered yet
            this.waiting = {}; // what to ask once it has
            this.fingers = new Map();
            this.tools = root.parentElement.querySelector(".seal-tools");
            this.paints = ""; // what the brush does: "add", "away", or nothing
            this.strokes = []; // in shares of the reference, as Python reads them
            this.hover = null; // where the brush is, in the same shares
            this.painting = null; // the pointer that paints
            this.listen();
            this.unlink();
        }

        get visible() { // the tick in the accordion's heading
            return byId(this.root.dataset.accordion + "-visible-checkbox");
        }

        // The host ties the tick to the heading: whoever opens SeAl to look at it would switch it on. What it takes for a press undoes that,
        // and is none: an event that no mouse made leaves the tick as it is.
        unlink() {
            this.visible?.dispatchEvent(new Event("click"));
        }

        // Whoever switches it on wants to see it.
        open() {
            const heading = byId(this.root.dataset.accordion)?.querySelector(".label-wrap");
            if (this.on && heading && !heading.classList.contains("open")) heading.click();
        }

        get on() {
            return Boolean(byId(this.root.dataset.accordion + "-checkbox")?.querySelector("input")?.checked);
        }

        soon(name, wait, act) {
            clearTimeout(this.timers[name]);
            this.timers[name] = setTimeout(() => this.on && act(), wait);
        }

        look(wait = PAUSE) {
            this.soon("look" + wait, wait, () => this.ask("look"));
        }

        words() {
            this.soon("words", PAUSE, () => this.ask("words"));
        }

        // gradio forgets a press of a button whose last press is not answered: one question at a time, and the newest is never lost.
        ask(name) {
            if (Date.now() - (this.asked[name] || 0) < GIVEN_UP) {
                this.waiting[name] = true;
                return;
            }
            this.asked[name] = Date.now();
            byId(this.root.dataset[name === "words" ? "compare" : this.thorough ? "look" : "glance"])?.click();
        }

        answered(name) {
            this.asked[name] = 0;
            if (this.waiting[name]) {
                this.waiting[name] = false;
                this.ask(name);
            }
        }

        listen() {
            const {root} = this;
            byId(root.dataset.told)?.addEventListener("click", (event) => this.cure(event.target.dataset));
            byId(root.dataset.look)?.addEventListener("click", (event) => {
                this.thorough ||= event.isTrusted;
                this.asked.look = Date.now();
            });
            root.dataset.slots.split(" ").map(byId).forEach((slot, number) => {
                if (!slot) return;
                // A picture comes or goes, whoever put it there.
                let before = pictures(slot);
                if (number === 0) this.known = before;
                new MutationObserver(() => {
                    const now = pictures(slot);
                    if (now === before) return;
                    if (number === 0) this.replaced(before, now);
                    before = now;
                    this.look(AT_ONCE);
                }).observe(slot, {subtree: true, childList: true, attributes: true, attributeFilter: ["src"]});
            });
            const units = byId(root.dataset.tab + "_controlnet");
            for (const kind of ["change", "input", "click", "drop", "paste"]) {
                units?.addEventListener(kind, () => {
                    this.thorough = false;
                    this.look();
                    this.look(LATER);
                }, true);
            }
            root.addEventListener("pointerdown", (event) => this.down(event));
            root.addEventListener("pointermove", (event) => this.move(event));
            for (const kind of ["pointerup", "pointercancel"]) root.addEventListener(kind, (event) => this.up(event));
            root.addEventListener("wheel", (event) => this.wheel(event), {passive: false});
            root.addEventListener("keydown", (event) => this.key(event));
            root.addEventListener("pointerleave", () => this.point(null));
            this.tools.addEventListener("click", (event) => this.press(event.target.dataset.does));
            new ResizeObserver(() => this.draw()).observe(root);
        }

        get movable() {
            return Boolean(this.seen?.units.some((unit) => !unit.stays));
        }

        // ---- the reference

        // Another one, or none: what was painted was painted on the one before. Whoever gives a picture means it.
        replaced(former, there) {
            const {there: before, when} = this.former; // gradio 4 empties the slot for a moment
            this.former = {there: former || (Date.now() - when < JUST && before), when: Date.now()};
            this.known = there;
            if (this.strokes.length) {
                this.strokes = [];
                this.pour();
            }
            if (there && !this.on) this.visible?.click();
        }

        // Whether the picture that was just given took the place of another. That it was given may be heard before it is seen, or after.
        get full() {
            const heard = this.known !== pictures(byId(this.root.dataset.slots.split(" ")[0])), {there, when} = this.former;
            return Boolean(heard || Date.now() - when > JUST ? this.known : there);
        }

        // ---- what a notice offers

        cure({cure, unit}) {
            if (cure === "paint" && this.paints !== "add") this.press("add");
            if (cure === "paint") this.root.scrollIntoView({block: "center", behavior: "smooth"});
            const enable = byId(`${this.root.dataset.tab}_controlnet_ControlNet-${unit}_controlnet_enable_checkbox`);
            if (cure === "enable") enable?.querySelector("input")?.click();
            if (cure === "unit") enable?.scrollIntoView({block: "center", behavior: "smooth"});
        }

        // ---- the brush

        get radius() { // a share of the reference's longer side
            return Number(this.tools.querySelector("input").value) / 200;
        }

        // A point of the page in shares of the reference.
        at(event) {
            const box = this.canvas.getBoundingClientRect(), [x0, y0, x1, y1] = this.seen.lies, [wide, tall] = this.seen.canvas;
            const x = (event.clientX - box.left) / box.width * wide, y = (event.clientY - box.top) / box.height * tall;
            return [(x - x0) / (x1 - x0), (y - y0) / (y1 - y0)].map((share) => Number(Math.min(Math.max(share, -1), 2).toFixed(4)));
        }

        press(does) {
            if (does === "add" || does === "away") this.paints = this.paints === does ? "" : does;
            else if (does === "undo") this.strokes.pop();
            else if (does === "clear") this.strokes = [];
            else return;
            for (const button of this.tools.querySelectorAll("button")) {
                button.classList.toggle("seal-pressed", button.dataset.does === this.paints);
                button.setAttribute("aria-pressed", button.dataset.does === this.paints);
            }
            this.root.classList.toggle("seal-paints", Boolean(this.paints));
            this.hover = null;
            this.draw();
            if (does === "undo" || does === "clear") this.pour();
        }

        point(event) {
            this.hover = event && this.paints && this.seen ? this.at(event) : null;
            this.draw();
        }

        // What a run reads; Python hears of it and looks again.
        pour() {
            const input = byId(this.root.dataset.strokes)?.querySelector("textarea, input");
            const text = this.strokes.length ? JSON.stringify(this.strokes) : "";
            if (!input || input.value === text) return;
            input.value = text;
            updateInput(input);
        }

        // ---- the hand

        down(event) {
            // A finger that finds the preview without focus may mean to scroll the page: it first has to be chosen.
            const chosen = document.activeElement === this.root || event.pointerType === "mouse";
            this.root.focus({preventScroll: true});
            if (this.paints && this.seen && !event.button && this.painting === null) {
                event.preventDefault();
                this.painting = event.pointerId;
                this.root.setPointerCapture(event.pointerId);
                this.strokes.push({away: this.paints === "away", radius: this.radius, points: [this.at(event)]});
                this.point(event);
                return;
            }
            if (this.paints || !this.movable || !chosen || event.button) return;
            this.fingers.set(event.pointerId, [event.clientX, event.clientY]);
            this.root.setPointerCapture(event.pointerId);
            event.preventDefault();
        }

        move(event) {
            if (this.paints && this.seen) {
                const at = this.at(event), points = event.pointerId === this.painting ? this.strokes.at(-1).points : null;
                if (points && Math.hypot(at[0] - points.at(-1)[0], at[1] - points.at(-1)[1]) > NEAR) points.push(at);
                this.point(event);
                return;
            }
            const before = this.fingers.get(event.pointerId);
            if (!before) return;
            const now = [event.clientX, event.clientY], box = this.canvas.getBoundingClientRect();
            const other = [...this.fingers].find(([id]) => id !== event.pointerId)?.[1];
            const apart = (a, b) => Math.max(1, Math.hypot(a[0] - b[0], a[1] - b[1]));
            const share = 1 / this.fingers.size; // of two fingers each moves half the way
            this.fingers.set(event.pointerId, now);
            this.change({
                x: this.hand.x + (now[0] - before[0]) / box.width * share,
                y: this.hand.y + (now[1] - before[1]) / box.height * share,
                scale: other ? this.hand.scale * apart(now, other) / apart(before, other) : this.hand.scale,
            });
        }

        up(event) {
            if (event.pointerId === this.painting) {
                this.painting = null;
                this.pour();
            }
            if (this.fingers.delete(event.pointerId)) this.write();
        }

        wheel(event) {
            // Only once it was chosen: otherwise whoever scrolls past would change a picture.
            if (!this.movable || document.activeElement !== this.root) return;
            event.preventDefault();
            this.change({...this.hand, scale: this.hand.scale * Math.exp(-event.deltaY * (event.deltaMode ? 0.03 : 0.001))});
            this.soon("write", 200, () => this.write());
        }

        key(event) {
            if (!this.movable || event.ctrlKey || event.metaKey || event.altKey) return;
            const step = event.shiftKey ? STRIDE : STEP, {x, y, scale} = this.hand;
            const made = {
                ArrowLeft: {x: x - step}, ArrowRight: {x: x + step}, ArrowUp: {y: y - step}, ArrowDown: {y: y + step},
                "+": {scale: scale * GROW}, "=": {scale: scale * GROW}, "-": {scale: scale / GROW}, "0": {x: 0, y: 0, scale: 1},
            }[event.key];
            if (!made) return;
            event.preventDefault();
            event.stopPropagation();
            this.change({...this.hand, ...made});
            this.soon("write", 200, () => this.write());
        }

        change(hand) {
            for (const name of Object.keys(LIMITS)) {
                const [low, high] = LIMITS[name];
                this.hand[name] = Math.min(Math.max(hand[name], low), high);
            }
            this.draw();
        }

        // The sliders are what a run reads and what a picture remembers.
        write() {
            for (const [name, [, , step]] of Object.entries(LIMITS)) {
                const input = byId(this.root.dataset[PARTS[name]])?.querySelector("input[type=number]");
                const value = Math.round(this.hand[name] / step) * step;
                if (!input || Math.abs(Number(input.value) - value) < step / 2) continue;
                input.value = String(Number(value.toFixed(3)));
                updateInput(input);
            }
        }

        reset() {
            this.change({x: 0, y: 0, scale: 1});
            this.write();
        }

        // ---- what is seen

        async show(told) {
            const sent = told ? JSON.parse(told) : {};
            const load = async (url) => {
                const image = new Image();
                image.src = url;
                await image.decode();
                return image;
            };
            const turn = this.turn = (this.turn || 0) + 1;
            let seen = null;
            if (sent.base) {
                const units = await Promise.all(sent.units.map(async (unit) => ({...unit, image: await load(unit.map)})));
                seen = {...sent, base: await load(sent.base), units};
            }
            if (turn !== this.turn) return; // a later look came first
            this.seen = seen;
            this.root.classList.toggle("seal-seen", Boolean(seen));
            this.root.classList.toggle("seal-movable", this.movable);
            this.root.parentElement.classList.toggle("seal-with-units", this.movable);
            this.root.parentElement.classList.toggle("seal-with-reference", Boolean(seen));
            this.root.parentElement.classList.toggle("seal-outlined", Boolean(seen?.outlined));
            this.draw();
        }

        draw() {
            const {seen, canvas, hand} = this;
            if (!seen) return;
            const [wide, tall] = seen.canvas;
            if (canvas.width !== seen.base.width || canvas.height !== seen.base.height) {
                [canvas.width, canvas.height] = [seen.base.width, seen.base.height];
            }
            canvas.style.width = `min(100%, ${TALLEST * wide / tall}px)`;
            const k = canvas.width / wide, pen = canvas.getContext("2d"), style = getComputedStyle(this.root);
            const px = canvas.width / Math.max(1, canvas.getBoundingClientRect().width); // of the canvas in one of the page
            pen.clearRect(0, 0, canvas.width, canvas.height);
            pen.drawImage(seen.base, 0, 0);
            const frame = ([x0, y0, x1, y1], name, dash) => {
                pen.setLineDash(dash.map((n) => n * px));
                pen.lineWidth = 4 * px;
                pen.strokeStyle = "rgba(0, 0, 0, 0.35)";
                pen.strokeRect(x0 * k, y0 * k, (x1 - x0) * k, (y1 - y0) * k);
                pen.lineWidth = 2 * px;
                pen.strokeStyle = style.getPropertyValue(name);
                pen.strokeRect(x0 * k, y0 * k, (x1 - x0) * k, (y1 - y0) * k);
                pen.setLineDash([]);
            };
            for (const unit of seen.units.filter((one) => one.stays)) pen.drawImage(unit.image, 0, 0, canvas.width, canvas.height);
            let outside = false;
            for (const unit of seen.units.filter((one) => !one.stays)) {
                const [ax, ay] = unit.anchor, s = hand.scale;
                const dx = ax * (1 - s) + hand.x * wide, dy = ay * (1 - s) + hand.y * tall;
                const after = unit.after.map((n, i) => n * s + (i % 2 ? dy : dx));
                outside ||= inside(unit.after, wide, tall) - inside(after, wide, tall) > LOST;
                frame(unit.before, "--seal-before", [3, 3]);
                frame(unit.reference, "--seal-subject", [6, 4]);
                pen.save();
                pen.shadowColor = "rgba(0, 0, 0, 0.9)";
                pen.shadowBlur = 4 * px;
                pen.drawImage(unit.image, dx * k, dy * k, s * canvas.width, s * canvas.height);
                pen.restore();
                frame(after, "--seal-after", []);
                pen.beginPath();
                pen.arc((ax * s + dx) * k, (ay * s + dy) * k, 5 * px, 0, 7);
                pen.fillStyle = style.getPropertyValue("--seal-after");
                pen.fill();
                pen.lineWidth = 1.5 * px;
                pen.strokeStyle = "white";
                pen.stroke();
            }
            this.root.parentElement.classList.toggle("seal-outside", outside);
            if (this.paints) this.drawStrokes(pen, k, px, style);
        }

        drawStrokes(pen, k, px, style) {
            const [x0, y0, x1, y1] = this.seen.lies.map((n) => n * k), longer = Math.max(x1 - x0, y1 - y0);
            const place = ([x, y]) => [x0 + x * (x1 - x0), y0 + y * (y1 - y0)];
            pen.save();
            [pen.lineCap, pen.lineJoin, pen.globalAlpha] = ["round", "round", 0.45];
            for (const {away, radius, points} of this.strokes) {
                pen.strokeStyle = style.getPropertyValue(away ? "--seal-away" : "--seal-subject");
                pen.lineWidth = 2 * radius * longer;
                pen.beginPath();
                pen.moveTo(...place(points[0]));
                for (const point of points) pen.lineTo(...place(point));
                pen.stroke();
            }
            pen.restore();
            if (!this.hover) return;
            pen.beginPath();
            pen.arc(...place(this.hover), this.radius * longer, 0, 7);
            [pen.lineWidth, pen.strokeStyle] = [2 * px, "white"];
            pen.stroke();
        }
    }

    // gradio may render late and anew: the stage is looked for whenever it is needed.
    function stage(tab) {
        const root = gradioApp().querySelector(`.seal-stage[data-tab="${tab}"]`);
        if (root && stages[tab]?.root !== root) stages[tab] = new Stage(root);
        return root ? stages[tab] : undefined;
    }

    window.sealEnabled = (tab) => {
        stage(tab)?.open();
        stage(tab)?.look();
        return [];
    };
    window.sealFull = (tab) => [stage(tab)?.full ? "full" : ""];
    window.sealLook = (tab) => { stage(tab)?.look(); return []; };
    window.sealPainted = (tab, text) => {
        const found = stage(tab);
        if (found && !text) found.strokes = []; // a paste takes them away, too
        found?.look(AT_ONCE);
        return [];
    };
    window.sealWords = (tab) => { stage(tab)?.words(); return []; };
    window.sealCompared = (tab) => { stage(tab)?.answered("words"); return []; };
    window.sealShow = (tab, told) => {
        stage(tab)?.show(told);
        stage(tab)?.answered("look");
        return [];
    };
    window.sealReset = (tab) => { stage(tab)?.reset(); return []; };
    window.sealHand = (tab, x, y, scale) => {
        const found = stage(tab);
        if (found && !found.fingers.size) found.change({x, y, scale});
        return [];
    };

    onUiLoaded(() => ["txt2img", "img2img"].forEach(stage));
})();
