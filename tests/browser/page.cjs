// Drives the WebUI's page as an artist would, in Chromium, and writes what came of every step; tests/hosts/test_page_live.py judges it.
//
//     node page.cjs URL FOLDER STORE ADAPTER
//
// FOLDER    holds reference.png, busy.png, noise.png, map.png and pose.png; results.json and screenshots come into it
// STORE     where SeAl keeps references; before all of them are deleted, a copy comes into FOLDER/kept
// ADAPTER   a part of the name of the adapter that fits the checkpoint
//
// SEAL_PLAYWRIGHT   node_modules with playwright-core
// SEAL_CHROMIUM     the browser, /usr/bin/chromium unless said

const fs = require("fs"), path = require("path");
const {chromium} = require(path.join(process.env.SEAL_PLAYWRIGHT, "playwright-core"));
const [url, folder, store, adapter] = process.argv.slice(2);
const SIZE = 128, PATIENCE = 180000;
const seal = (name) => `#script_txt2img_seal_${name}`, unit = (name) => `#txt2img_controlnet_ControlNet-0_${name}`;
const file = (name) => path.join(folder, name);
const stage = ".seal-stage[data-tab=txt2img]";
const tool = (does) => `${seal("preview")} .seal-tools button[data-does=${does}]`;
// Each gradio has its name for the button that clears a slot.
const cleared = (name) => `${seal(name)} :is(button[aria-label=Clear], button[aria-label="Remove Image"])`;
const results = {}, errors = [];
let p;

async function step(name, act) {
    const began = errors.length;
    try {
        results[name] = {...await act(), errors: errors.slice(began)};
    } catch (error) {
        results[name] = {failed: String(error).slice(0, 1500), errors: errors.slice(began)};
        await p.screenshot({path: file(`failed-${name}.png`)}).catch(() => {});
    }
    fs.writeFileSync(file("results.json"), JSON.stringify(results, null, 1));
}

const sleep = (ms) => p.waitForTimeout(ms);
const number = async (name) => Number(await p.inputValue(`${seal(name)} input[type=number]`));
const hand = async () => [await number("hand_x"), await number("hand_y"), await number("hand_scale")];
const told = () => p.textContent(`${seal("told")} .prose`).catch(() => p.textContent(seal("told")));
const looks = () => p.$eval(`${stage} canvas`, (canvas) => canvas.toDataURL().length);

// Hidden under a closed heading it cannot be typed into; this is what typing amounts to.
const put = (selector, value) => p.$eval(selector, (input, text) => {
    input.value = text;
    input.dispatchEvent(new Event("input", {bubbles: true}));
}, String(value));

// Python answers when it can: wait for what is expected, and let the test say what was there instead.
async function until(ready) {
    for (const end = Date.now() + PATIENCE / 2; Date.now() < end; await sleep(300)) {
        if (await Promise.race([ready().catch(() => false), sleep(5000)])) return true;
    }
    return false;
}

async function open(theme = "light") {
    await p.goto(`${url}/?__theme=${theme}`, {waitUntil: "domcontentloaded"});
    await p.waitForSelector(`${seal("accordion")}-visible-checkbox`, {timeout: PATIENCE});
    await until(() => p.evaluate(() => !document.querySelector(".progress-level") && Boolean(window.sealLook)));
    await sleep(2000);
}

const unfold = () => p.click(`${seal("accordion")} .label-wrap`);
const isOn = () => p.isChecked(`${seal("accordion")}-visible-checkbox`);
const tick = () => p.click(`${seal("accordion")}-visible-checkbox`);
const give = (slot, name) => p.setInputFiles(`${slot} input[type=file]`, file(name));

// The preview shows the square reference as it lies in the square canvas: shares of one are shares of the other.
async function paint(does = "add", line = [[0.5, 0.3], [0.5, 0.8]]) {
    await p.locator(tool(does)).first().click();
    await p.locator(stage).scrollIntoViewIfNeeded();
    const box = await p.locator(`${stage} canvas`).boundingBox();
    const at = ([x, y]) => [box.x + box.width * x, box.y + box.height * y];
    await p.mouse.move(...at(line[0]));
    await p.mouse.down();
    for (const point of line.slice(1)) await p.mouse.move(...at(point), {steps: 12});
    await p.mouse.up();
    await p.locator(tool(does)).first().click(); // and the mouse moves the figure again
}

async function size() {
    for (const side of ["width", "height"]) await p.fill(`#txt2img_${side} input[type=number]`, String(SIZE));
    await p.fill("#txt2img_steps input[type=number]", "4");
    await p.fill("#txt2img_seed input", "7");
    await sleep(500);
}

async function structure() {
    // The ControlNet that is built in has an accordion for each unit, too.
    for (const heading of ["#txt2img_controlnet .label-wrap", "#txt2img_controlnet_accordions .label-wrap span"]) {
        if (!await p.isVisible(unit("input_image"))) await p.locator(heading).first().click();
        await sleep(1000);
    }
    await give(unit("input_image"), "map.png");
    await sleep(1000);
    await p.click(unit("controlnet_model_dropdown") + " input");
    await p.click(unit("controlnet_model_dropdown") + ` li:has-text("${adapter}")`);
    const box = unit("controlnet_enable_checkbox") + " input";
    await sleep(1500); // a picture that is dropped enables its unit by itself
    if (!await p.isChecked(box)) await p.click(box);
}

async function draw() {
    const before = await p.$$eval("#txt2img_gallery img", (images) => images.map((image) => image.src).join());
    await p.click("#txt2img_generate");
    await until(async () => {
        const now = await p.$$eval("#txt2img_gallery img", (images) => images.map((image) => image.src).join());
        const said = await p.textContent("#html_log_txt2img");
        return now && now !== before && said.includes("Time taken");
    });
    await sleep(1000);
    const source = await p.$eval("#txt2img_gallery img", (image) => image.src);
    const bytes = Buffer.from(await (await p.request.get(source)).body());
    const log = await p.$eval("#html_log_txt2img", (html) => html.innerText);
    return {info: await p.$eval("#html_info_txt2img", (html) => html.innerText), log, bytes};
}

(async () => {
    const browser = await chromium.launch({executablePath: process.env.SEAL_CHROMIUM || "/usr/bin/chromium", args: ["--no-sandbox"]});
    p = await browser.newPage({viewport: {width: 1500, height: 1300}});
    p.setDefaultTimeout(PATIENCE / 3);
    p.on("pageerror", (error) => errors.push(error.stack || String(error)));
    p.on("console", (said) => said.type() === "error" && errors.push(`${said.text()} ${said.location().url}`));

    await step("load", async () => {
        await open();
        // gradio's HTML carries its id twice, on the block and on the text inside.
        const ids = await p.$$eval("[id]:not(.prose)", (all) => all.map((element) => element.id).filter((id) => id.includes("_seal_")));
        const tabs = await p.$$eval(".seal-stage", (all) => all.map((element) => element.dataset.tab));
        const closed = !await p.isVisible(seal("reference"));
        const gradio = await p.evaluate(() => window.gradio_config.version);
        return {ids, tabs, closed, gradio, on: await p.isChecked(`${seal("accordion")}-visible-checkbox`)};
    });
    await step("size", async () => { await size(); return {}; });
    await step("enable", async () => {
        await p.fill("#txt2img_prompt textarea", "a red cat, sitting");
        await unfold();
        await p.waitForSelector(seal("reference"), {state: "visible"});
        await sleep(1000);
        const opened = await isOn(), legend = await p.isVisible(`${seal("preview")} .seal-key`);
        await tick();
        await until(async () => (await told()).includes("missing"));
        return {opened, legend, on: await isOn(), open: await p.isVisible(seal("reference")), told: await told()};
    });
    await step("reference", async () => {
        const began = Date.now();
        await give(seal("reference"), "reference.png");
        const seen = await p.waitForSelector(`${stage}.seal-seen canvas`, {state: "visible"}).then(() => true);
        return {seen, after: Date.now() - began, told: await told(), read: await p.isEnabled(seal("info"))};
    });
    await step("words", async () => {
        await p.click(seal("copy"));
        await until(async () => await p.inputValue(`${seal("appearance_prompt")} textarea`) !== "");
        const copied = await p.inputValue(`${seal("appearance_prompt")} textarea`);
        await p.fill(`${seal("appearance_prompt")} textarea`, "a blue cat, sitting");
        await until(() => p.isVisible(`${seal("words")} ins`));
        return {copied, gone: await p.textContent(`${seal("words")} del`), come: await p.textContent(`${seal("words")} ins`)};
    });
    await step("mask", async () => {
        const before = await told();
        await give(seal("reference"), "busy.png");
        await until(async () => ![before, ""].includes(await told()) && !(await told()).includes("missing"));
        const unsure = await told(), outlined = await looks();
        await paint("add");
        const overlay = await until(async () => await looks() !== outlined && (await told()).includes("you gave"));
        const strokes = async () => JSON.parse(await p.inputValue(`${seal("strokes")} :is(textarea, input)`) || "[]");
        const painted = await strokes();
        await paint("away", [[0.1, 0.1], [0.1, 0.9]]);
        await until(async () => (await strokes()).length === 2);
        await p.locator(tool("undo")).first().click();
        await until(async () => (await strokes()).length === 1);
        await p.locator(seal("preview")).first().screenshot({path: file("painted.png")});
        return {unsure, overlay, painted, left: await strokes(), told: await told()};
    });
    await step("pose", async () => {
        await give(seal("reference_pose"), "reference.png");
        await until(async () => (await told()).includes("skeleton"));
        const wrong = await told();
        await p.click(cleared("reference_pose"));
        await give(seal("reference_pose"), "pose.png");
        const taken = await until(async () => !(await told()).includes("skeleton"));
        return {wrong, taken, told: await told()};
    });
    await step("structure", async () => {
        await structure();
        const movable = await until(() => p.isVisible(`${stage}.seal-movable`));
        await p.locator(seal("accordion")).screenshot({path: file("page.png")});
        return {movable, ticks: await p.textContent(seal("ticks")), told: await told()};
    });
    await step("ticks", async () => {
        const units = () => p.inputValue(`${seal("units")} input, ${seal("units")} textarea`);
        await p.click(`${seal("ticks")} input[type=checkbox]`);
        await until(async () => await units() === "all but 0" && !await p.isVisible(`${stage}.seal-movable`));
        const without = [await units(), await p.isVisible(`${stage}.seal-movable`)];
        await p.click(`${seal("ticks")} input[type=checkbox]`);
        await until(async () => await units() === "all" && await p.isVisible(`${stage}.seal-movable`));
        return {without, with: [await units(), await p.isVisible(`${stage}.seal-movable`)]};
    });
    await step("hand", async () => {
        await p.locator(stage).scrollIntoViewIfNeeded();
        const off = () => p.isVisible(`${seal("preview")} .seal-off`), quiet = await off();
        await put(`${seal("hand_x")} input[type=number]`, 0.9);
        const lost = await until(off);
        await p.locator(seal("preview")).first().screenshot({path: file("off.png")});
        await p.locator(stage).focus();
        await p.keyboard.press("0");
        await until(async () => (await hand())[0] === 0);
        const found = !await off();
        const box = await p.locator(`${stage} canvas`).boundingBox(), before = await looks();
        const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
        await p.mouse.move(x, y);
        await p.mouse.down();
        await p.mouse.move(x + box.width / 8, y - box.height / 16, {steps: 5});
        await p.mouse.up();
        await until(async () => (await hand())[0] !== 0);
        const dragged = await hand(), redrawn = await looks() !== before;
        await p.mouse.wheel(0, -200);
        await until(async () => (await hand())[2] !== 1);
        const wheeled = await hand();
        await p.locator(stage).focus();
        for (const key of ["ArrowRight", "Shift+ArrowDown", "-"]) await p.keyboard.press(key);
        await until(async () => (await hand())[0] !== wheeled[0]);
        const keyed = await hand();
        await put(`${seal("hand_scale")} input[type=number]`, 1.5); // the slider moves the picture, too
        await sleep(1000);
        await p.locator(seal("preview")).first().screenshot({path: file("preview.png")});
        return {quiet, lost, found, dragged, redrawn, wheeled, keyed};
    });
    let first;
    await step("draw", async () => {
        await put(`${seal("lam")} input[type=number]`, 2.5);
        await put(`${seal("blocks")} input, ${seal("blocks")} textarea`, "mid up:0.5");
        await sleep(1000);
        first = await draw();
        fs.writeFileSync(file("first.png"), first.bytes);
        return {info: first.info, log: first.log, hand: await hand()};
    });
    await step("last", async () => {
        const before = await p.$eval(`${seal("reference")} img`, (image) => image.src);
        await p.click(seal("last"));
        const taken = await until(() => p.$eval(`${seal("reference")} img`, (image, old) => image.src !== old, before));
        const offered = await until(() => p.isEnabled(seal("info")));
        await p.click(seal("info"));
        await until(async () => await p.inputValue(`${seal("appearance_prompt")} textarea`) === "a red cat, sitting");
        return {taken, offered, read: await p.inputValue(`${seal("appearance_prompt")} textarea`)};
    });
    await step("paste", async () => {
        await open();
        await p.fill("#txt2img_prompt textarea", first.info);
        await p.click("#paste");
        const filled = await until(() => p.isVisible(`${seal("reference")} img`));
        await until(async () => await number("hand_scale") === 1.5);
        await sleep(2000);
        const posed = await p.isVisible(`${seal("reference_pose")} img`);
        return {filled, posed, hand: await hand(), lam: await number("lam"), on: await p.isChecked(`${seal("accordion")}-visible-checkbox`),
            prompt: await p.inputValue(`${seal("appearance_prompt")} textarea`),
            blocks: await p.inputValue(`${seal("blocks")} input, ${seal("blocks")} textarea`)};
    });
    await step("again", async () => {
        await structure();
        await until(() => p.isVisible(`${stage}.seal-movable`));
        const second = await draw();
        fs.writeFileSync(file("second.png"), second.bytes);
        return {info: second.info, same: second.bytes.equals(first.bytes)};
    });
    await step("further", async () => {
        await p.click(seal("add"));
        const aside = await until(() => p.isVisible(`${seal("more")} img`));
        const free = await until(async () => !await p.isVisible(`${seal("reference")} img, ${seal("reference_pose")} img`));
        await give(seal("reference"), "busy.png"); // and what is painted now counts as well as before the paste
        await until(() => p.isVisible(`${seal("reference")} img`));
        await until(() => p.isVisible(`${stage}.seal-seen canvas`));
        await sleep(1000);
        await paint();
        const painted = await until(async () => (await told()).includes("you gave"));
        await sleep(1500);
        const {info, log} = await draw();
        return {aside, free, painted, info, log};
    });
    await step("idle", async () => {
        const clamp = `${seal("clamp")} input`, blend = (form) => p.$eval(`${seal("form")} input[value=${form}]`, (radio) => radio.click());
        const idle = () => p.isDisabled(clamp), began = await idle();
        await blend("output");
        const acts = await until(async () => !await idle());
        await p.$eval(clamp, (box) => box.click());
        const taken = await until(async () => !await p.isChecked(clamp));
        await p.$eval(clamp, (box) => box.click());
        await blend("joint");
        return {began, acts, taken, ended: await until(idle)};
    });
    await step("cure", async () => {
        await give(seal("reference"), "reference.png");
        await p.waitForSelector(`${stage}.seal-seen canvas`, {state: "visible"});
        await structure();
        await p.click(unit("controlnet_enable_checkbox") + " input"); // somebody forgot to enable it
        const offered = await until(() => p.isVisible(`${seal("told")} button[data-cure=enable]`));
        await p.locator(seal("accordion")).screenshot({path: file("notice.png")});
        await p.click(`${seal("told")} button[data-cure=enable]`);
        const cured = await until(() => p.isVisible(`${stage}.seal-movable`));
        await give(seal("reference"), "noise.png");
        await until(() => p.isVisible(`${seal("told")} button[data-cure=paint]`));
        await p.click(`${seal("told")} button[data-cure=paint]`);
        const paints = await until(() => p.isVisible(`${stage}.seal-paints`));
        await p.locator(tool("add")).first().click();
        return {offered, cured, enabled: await p.isChecked(unit("controlnet_enable_checkbox") + " input"), paints};
    });
    await step("former", async () => {
        const masked = () => p.$$eval(`${seal("subject_mask")} img, ${seal("reference_pose")} img`, (images) => images.length);
        const paste = async () => {
            await open();
            await p.fill("#txt2img_prompt textarea", first.info);
            await p.click("#paste");
            return until(async () => await masked() === 2 && p.isVisible(`${stage}.seal-seen canvas`));
        };
        const kept = await paste();
        await sleep(3000);
        const still = await masked(), before = await looks();
        await paint("away", [[0.4, 0.2], [0.6, 0.2]]);
        const repainted = await until(async () => await looks() !== before);
        await p.locator(seal("preview")).first().screenshot({path: file("repainted.png")});
        const again = await draw();
        await give(seal("reference"), "reference.png");
        const replaced = await until(async () => await masked() === 0);
        await until(async () => (await told()).includes("even background"));
        const fresh = await told();
        await paste();
        await p.click(cleared("reference"));
        const emptied = await until(async () => await masked() === 0);
        await open();
        await unfold();
        await p.click(`${seal("advanced")} .label-wrap`);
        await give(seal("subject_mask"), "map.png"); // for a reference that is yet to come
        await until(async () => await masked() === 1);
        const off = !await isOn();
        await give(seal("reference"), "reference.png");
        const on = await until(isOn);
        await until(async () => (await told()).includes("you gave"));
        return {kept, still, repainted, info: again.info, replaced, fresh, emptied, off, on, stays: await masked(), told: await told()};
    });
    await step("empty", async () => {
        const kept = async () => (await (await p.request.get(`${url}/seal/v1/cache`)).json());
        const asked = [], said = () => p.textContent(seal("emptied"));
        const press = async (answer) => {
            p.once("dialog", (dialog) => { asked.push(dialog.message()); dialog[answer](); });
            await p.$eval(seal("empty"), (button) => button.click());
        };
        const before = await kept();
        fs.cpSync(store, file("kept"), {recursive: true});
        await press("dismiss");
        await sleep(3000);
        const refused = {kept: await kept(), said: await said()};
        await press("accept");
        await until(async () => (await said()).includes("keeps no"));
        return {asked, before, refused, after: await kept(), said: await said()};
    });
    await step("phone", async () => {
        await p.setViewportSize({width: 390, height: 844});
        await p.evaluate(() => document.body.classList.add("dark"));
        await sleep(1500);
        await p.locator(stage).scrollIntoViewIfNeeded();
        await p.locator(seal("accordion")).screenshot({path: file("phone.png")});
        const wide = await p.$$eval(`${seal("accordion")} *`, (all) => all.filter((element) => {
            const box = element.getBoundingClientRect();
            return box.width && box.right > innerWidth + 1 && getComputedStyle(element).visibility !== "hidden";
        }).map((element) => element.outerHTML.slice(0, 120)));
        await p.setViewportSize({width: 1500, height: 1300});
        return {wide};
    });
    await step("refusal", async () => {
        await open();
        await size();
        await tick();
        return {log: (await draw()).log, open: await p.isVisible(seal("reference"))};
    });
    await step("ask", async () => {
        await open();
        await size();
        await unfold();

        const said = () => p.textContent(seal("lost"));
        await give(seal("reference"), "busy.png");
        await until(() => p.isVisible(`${stage}.seal-seen canvas`));
        await p.click(seal("seek"));
        await until(async () => (await said()).includes("words"));
        const wordless = await said();
        await p.fill("#txt2img_prompt textarea", "(a red cat:1.2), sitting");
        await p.click(seal("seek"));
        await until(async () => (await said()).includes("red cat"));
        const before = await looks();
        await sleep(3000);
        await p.locator(seal("accordion")).screenshot({path: file("asked.png")});
        return {wordless, said: await said(), told: await told(), before, after: await looks()};
    });
    await browser.close();
})().catch((error) => {
    console.error(error);
    process.exit(1);
});
