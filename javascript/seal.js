// The preview in SeAl's accordion: what of the reference counts, where AnchorAlign puts the structure, and the hand that corrects it.
// Python looks and computes (seal_ext/ui/preview.py); this draws, and moves what is drawn without asking Python. All text is Python's.

(() => {
    "use strict";

    const PAUSE = 500; // ms without a change before Python looks again
    const GIVEN_UP = 60000; // ms after which an answer is not waited for any more
    const LATER = 2500; // ControlNet's units reach Python by events of their own: look once more when they have
    const STEP = 0.005, STRIDE = 0.05, GROW = 1.02; // of an arrow key, with shift, of + and −
    const TALLEST = 420; // CSS pixels
    const LIMITS = {x: [-1, 1, 0.005], y: [-1, 1, 0.005], scale: [0.25, 4, 0.01]};
    const PARTS = {x: "handX", y: "handY", scale: "handScale"};
    const stages = {};

    const byId = (id) => gradioApp().getElementById ? gradioApp().getElementById(id) : document.getElementById(id);

    class Stage {
        constructor(root) {
            this.root = root;
            this.canvas = root.querySelector("canvas");
            this.hand = {x: 0, y: 0, scale: 1};
            this.seen = null; // what Python sent, with its pictures loaded
            this.thorough = false; // somebody pressed the button that also runs preprocessors
            this.timers = {};
            this.asked = {}; // when Python was asked something that it has not answered yet
            this.waiting = {}; // what to ask once it has
            this.fingers = new Map();
            this.listen();
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
            byId(root.dataset.look)?.addEventListener("click", (event) => {
                this.thorough ||= event.isTrusted;
                this.asked.look = Date.now();
            });
            for (const slot of root.dataset.slots.split(" ").map(byId)) {
                if (!slot) continue;
                // A picture comes or goes, whoever put it there; then strokes of the brush and its buttons.
                const pictures = () => [...slot.querySelectorAll("img")].map((image) => image.src).join();
                let before = pictures();
                new MutationObserver(() => {
                    const now = pictures();
                    if (now !== before) this.look();
                    before = now;
                }).observe(slot, {subtree: true, childList: true, attributes: true, attributeFilter: ["src"]});
                for (const kind of ["pointerup", "click", "keyup", "sealpainted"]) slot.addEventListener(kind, () => this.look());
            }
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
            new ResizeObserver(() => this.draw()).observe(root);
        }

        get movable() {
            return Boolean(this.seen?.units.length);
        }

        // ---- the hand

        down(event) {
            // A finger that finds the preview without focus may mean to scroll the page: it first has to be chosen.
            const chosen = document.activeElement === this.root || event.pointerType === "mouse";
            this.root.focus({preventScroll: true});
            if (!this.movable || !chosen || event.button) return;
            this.fingers.set(event.pointerId, [event.clientX, event.clientY]);
            this.root.setPointerCapture(event.pointerId);
            event.preventDefault();
        }

        move(event) {
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
            for (const unit of seen.units) {
                const [ax, ay] = unit.anchor, s = hand.scale;
                const dx = ax * (1 - s) + hand.x * wide, dy = ay * (1 - s) + hand.y * tall;
                frame(unit.before, "--seal-before", [3, 3]);
                frame(unit.reference, "--seal-subject", [6, 4]);
                pen.save();
                pen.shadowColor = "rgba(0, 0, 0, 0.9)";
                pen.shadowBlur = 4 * px;
                pen.drawImage(unit.image, dx * k, dy * k, s * canvas.width, s * canvas.height);
                pen.restore();
                frame(unit.after.map((n, i) => n * s + (i % 2 ? dy : dx)), "--seal-after", []);
                pen.beginPath();
                pen.arc((ax * s + dx) * k, (ay * s + dy) * k, 5 * px, 0, 7);
                pen.fillStyle = style.getPropertyValue("--seal-after");
                pen.fill();
                pen.lineWidth = 1.5 * px;
                pen.strokeStyle = "white";
                pen.stroke();
            }
        }
    }

    // gradio may render late and anew: the stage is looked for whenever it is needed.
    function stage(tab) {
        const root = gradioApp().querySelector(`.seal-stage[data-tab="${tab}"]`);
        if (root && stages[tab]?.root !== root) stages[tab] = new Stage(root);
        return root ? stages[tab] : undefined;
    }

    window.sealLook = (tab) => { stage(tab)?.look(); return []; };
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
