// The brush on a slot of SeAl's, where gradio has none that leaves a picture as it is (seal_ext/ui/gradios.py). What was painted is put into
// the slot's own value, next to the file, and goes to Python with it. All text is Python's.

(() => {
    "use strict";

    const PAINTED = "seal_painted"; // gradios.py has it, too
    const SHARPEST = 1024; // pixels of the longer side of what is painted; Python fits it to the picture
    const brushes = {};
    const byId = (id) => gradioApp().getElementById ? gradioApp().getElementById(id) : document.getElementById(id);

    class Brush {
        constructor(tools) {
            this.tools = tools;
            this.slot = byId(tools.dataset.slot);
            this.canvas = document.createElement("canvas");
            this.canvas.className = "seal-paint";
            this.strokes = [];
            this.hover = null;
            this.painting = null; // the pointer that paints
            this.image = null;
            this.source = "";
            new MutationObserver(() => this.follow())
                .observe(this.slot, {subtree: true, childList: true, attributes: true, attributeFilter: ["src"]});
            this.resized = new ResizeObserver(() => this.place());
            this.resized.observe(this.slot);
            const {canvas} = this;
            canvas.addEventListener("pointerdown", (event) => this.down(event));
            canvas.addEventListener("pointermove", (event) => this.move(event));
            canvas.addEventListener("pointerleave", () => this.point(null));
            for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, (event) => this.up(event));
            canvas.addEventListener("click", (event) => event.stopPropagation());
            tools.addEventListener("click", (event) => this.press(event.target.dataset.does));
            this.follow();
        }

        get radius() { // in shares of the picture's longer side
            return Number(this.tools.querySelector("input").value) / 200;
        }

        // Another picture, or none: what was painted was painted on the one before.
        follow() {
            const image = this.slot.querySelector("img"), source = image?.src || "";
            if (image !== this.image) {
                this.resized.disconnect();
                this.resized.observe(this.slot);
                if (image) {
                    this.resized.observe(image);
                    image.addEventListener("load", () => this.place());
                }
                this.image = image;
            }
            if (source !== this.source) {
                this.source = source;
                this.strokes = [];
            }
            if (image && this.canvas.parentElement !== image.parentElement) image.parentElement.append(this.canvas);
            if (!image) this.canvas.remove();
            this.tools.classList.toggle("seal-ready", Boolean(image));
            this.place();
        }

        // Over the picture itself: its element may be larger, with the picture fitted into it.
        place() {
            const {image, canvas} = this;
            if (!image?.naturalWidth || !image.offsetWidth) return;
            const {naturalWidth: wide, naturalHeight: tall} = image, sharp = Math.min(1, SHARPEST / Math.max(wide, tall));
            const fit = Math.min(image.offsetWidth / wide, image.offsetHeight / tall);
            const held = getComputedStyle(image).objectFit === "scale-down" ? Math.min(1, fit) : fit;
            const box = {
                left: image.offsetLeft + (image.offsetWidth - wide * held) / 2, top: image.offsetTop + (image.offsetHeight - tall * held) / 2,
                width: wide * held, height: tall * held,
            };
            for (const [side, length] of Object.entries(box)) canvas.style[side] = `${length}px`;
            [canvas.width, canvas.height] = [Math.max(1, Math.round(wide * sharp)), Math.max(1, Math.round(tall * sharp))];
            this.draw();
        }

        at(event) {
            const box = this.canvas.getBoundingClientRect();
            return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
        }

        down(event) {
            if (event.button || this.painting !== null) return;
            event.preventDefault();
            this.painting = event.pointerId;
            this.canvas.setPointerCapture(event.pointerId);
            this.strokes.push({radius: this.radius, points: [this.at(event)]});
            this.point(event);
        }

        move(event) {
            if (event.pointerId === this.painting) this.strokes.at(-1).points.push(this.at(event));
            this.point(event);
        }

        up(event) {
            if (event.pointerId !== this.painting) return;
            this.painting = null;
            this.pour();
        }

        point(event) {
            this.hover = event && this.at(event);
            this.draw();
        }

        press(does) {
            if (does === "undo") this.strokes.pop();
            else if (does === "clear") this.strokes = [];
            else return;
            this.draw();
            this.pour();
        }

        draw(canvas = this.canvas, colour = getComputedStyle(this.tools).getPropertyValue("--seal-paint")) {
            const {width, height} = canvas, pen = canvas.getContext("2d"), longer = Math.max(width, height);
            if (canvas === this.canvas) pen.clearRect(0, 0, width, height);
            [pen.lineCap, pen.lineJoin, pen.strokeStyle] = ["round", "round", colour];
            for (const {radius, points} of this.strokes) {
                pen.lineWidth = 2 * radius * longer;
                pen.beginPath();
                pen.moveTo(points[0][0] * width, points[0][1] * height);
                for (const [x, y] of points) pen.lineTo(x * width, y * height);
                pen.stroke();
            }
            if (canvas !== this.canvas || !this.hover) return;
            pen.beginPath();
            pen.arc(this.hover[0] * width, this.hover[1] * height, this.radius * longer, 0, 7);
            pen.lineWidth = 2 * width / Math.max(1, canvas.getBoundingClientRect().width);
            pen.strokeStyle = "white";
            pen.stroke();
        }

        // White on black, or nothing.
        get mask() {
            if (!this.strokes.length) return "";
            const canvas = document.createElement("canvas"), pen = canvas.getContext("2d");
            [canvas.width, canvas.height] = [this.canvas.width, this.canvas.height];
            pen.fillRect(0, 0, canvas.width, canvas.height);
            this.draw(canvas, "white");
            return canvas.toDataURL("image/png");
        }

        pour() {
            byId(this.tools.dataset.slot + "_pour")?.click();
        }
    }

    // gradio's answer to the hidden button: the slot's own value, and what is painted on it.
    window.sealPoured = (id, picture) => {
        const mask = brushes[id]?.mask;
        if (!picture) return [picture];
        const {[PAINTED]: before, ...meta} = picture.meta || {};
        setTimeout(() => byId(id)?.dispatchEvent(new Event("sealpainted"))); // once gradio has it
        return [{...picture, meta: mask ? {...meta, [PAINTED]: mask} : meta}];
    };

    // gradio may render late and anew.
    function follow() {
        for (const tools of gradioApp().querySelectorAll(".seal-brush")) {
            const {slot} = tools.dataset;
            if (byId(slot) && (brushes[slot]?.tools !== tools || brushes[slot]?.slot !== byId(slot))) brushes[slot] = new Brush(tools);
        }
    }

    onUiLoaded(follow);
    onAfterUiUpdate(follow);
})();
