// A pad to paint on with pointer or keys, and buttons that set a hidden field. Nothing is loaded from anywhere.
(() => {
  "use strict";
  const set = (target, value) => {
    const field = document.querySelector(`#${CSS.escape(target)} textarea, #${CSS.escape(target)} input`);
    if (!field) return;
    const proto = field.tagName === "TEXTAREA" ? HTMLTextAreaElement : HTMLInputElement;
    Object.getOwnPropertyDescriptor(proto.prototype, "value").set.call(field, value);
    field.dispatchEvent(new Event("input", { bubbles: true }));
    field.dispatchEvent(new KeyboardEvent("keypress", { bubbles: true, key: "a" })); // what gradio tells "input" by
  };
  const element = (name, attributes, text) => {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text) made.textContent = text;
    return made;
  };

  const setup = (pad) => {
    const { target } = pad.dataset;
    const [levels, channels, height, width] = ["levels", "channels", "height", "width"].map((k) => Number(pad.dataset[k]));
    const area = height * width, top = levels - 1;
    const pixels = Uint8Array.from(atob(pad.dataset.pixels), (c) => c.charCodeAt(0));
    const rub = "rub" in pad.dataset;
    const hidden = rub ? Uint8Array.from(atob(pad.dataset.hidden), (c) => c.charCodeAt(0)) : new Uint8Array(area);
    let tool = rub ? "rub" : "ink", size = Math.max(1, Math.round(Math.min(height, width) / 14)), colour = [top, top, top];
    let cursor = [Math.floor(height / 2), Math.floor(width / 2)], focused = false, drawing = false, timer = 0;

    const canvas = element("canvas", { width, height, tabindex: "0", role: "application", "aria-label": rub
      ? "Picture to rub out from: arrow keys move, space rubs out, Delete brings back"
      : "Picture to paint on: arrow keys move, space paints, Delete erases" });
    const mark = element("div", { class: "lk-cursor", hidden: "" });
    const stage = element("div", { class: "lk-stage" });
    stage.append(canvas, mark);
    const tools = element("div", { class: "lk-tools" });
    pad.replaceChildren(stage, tools);
    const context = canvas.getContext("2d");

    const render = () => {
      const image = context.createImageData(width, height);
      for (let i = 0; i < area; i++) {
        const out = rub && hidden[i];
        for (let c = 0; c < 3; c++) {
          const value = pixels[channels === 1 ? i : c * area + i] * 255 / top;
          image.data[4 * i + c] = out ? [221, 107, 32][c] : value;
        }
        image.data[4 * i + 3] = 255;
      }
      context.putImageData(image, 0, 0);
      mark.hidden = !focused;
      mark.style.cssText = `left:${100 * cursor[1] / width}%;top:${100 * cursor[0] / height}%;` +
        `width:${100 / width}%;height:${100 / height}%`;
    };
    const text = (bytes) => btoa(Array.from(bytes, (b) => String.fromCharCode(b)).join(""));
    const tell = () => {
      clearTimeout(timer);
      timer = setTimeout(() => set(target, text(rub ? hidden : pixels)), 120);
    };
    const dab = (row, column, erase) => {
      const reach = (size - 1) / 2;
      for (let r = Math.ceil(row - reach); r <= row + reach; r++) {
        for (let c = Math.ceil(column - reach); c <= column + reach; c++) {
          if (r < 0 || c < 0 || r >= height || c >= width) continue;
          const i = r * width + c;
          if (rub) hidden[i] = erase ? 0 : 1;
          else for (let k = 0; k < channels; k++) pixels[k * area + i] = erase ? 0 : colour[k];
        }
      }
      render();
    };
    const where = (event) => {
      const box = canvas.getBoundingClientRect();
      return [(event.clientY - box.top) * height / box.height, (event.clientX - box.left) * width / box.width].map(Math.floor);
    };
    const erases = () => tool === "erase" || tool === "back";
    let last = null;
    const stroke = (event) => {
      const [row, column] = where(event);
      const [r0, c0] = last || [row, column];
      const steps = Math.max(Math.abs(row - r0), Math.abs(column - c0), 1);
      for (let s = 0; s <= steps; s++) {
        dab(Math.round(r0 + (row - r0) * s / steps), Math.round(c0 + (column - c0) * s / steps), erases());
      }
      last = [row, column];
    };
    canvas.addEventListener("pointerdown", (event) => {
      drawing = true; last = null; canvas.setPointerCapture(event.pointerId); stroke(event); event.preventDefault();
    });
    canvas.addEventListener("pointermove", (event) => { if (drawing) stroke(event); });
    const end = () => { if (drawing) { drawing = false; last = null; tell(); } };
    canvas.addEventListener("pointerup", end);
    canvas.addEventListener("pointercancel", end);
    canvas.addEventListener("focus", () => { focused = canvas.matches(":focus-visible"); render(); });
    canvas.addEventListener("blur", () => { focused = false; render(); });
    canvas.addEventListener("keydown", (event) => {
      const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (move) {
        cursor = [Math.min(height - 1, Math.max(0, cursor[0] + move[0])), Math.min(width - 1, Math.max(0, cursor[1] + move[1]))];
      } else if (event.key === " " || event.key === "Enter") { dab(cursor[0], cursor[1], erases()); tell(); }
      else if (event.key === "Delete" || event.key === "Backspace") { dab(cursor[0], cursor[1], true); tell(); }
      else return;
      focused = true; event.preventDefault(); render();
    });

    const choice = (name, label) => {
      const button = element("button", { type: "button", "aria-pressed": String(tool === name) }, label);
      button.addEventListener("click", () => {
        tool = name;
        tools.querySelectorAll("button[aria-pressed]").forEach((b) => b.setAttribute("aria-pressed", String(b === button)));
      });
      return button;
    };
    tools.append(...(rub ? [choice("rub", "Rub out"), choice("back", "Bring back")] : [choice("ink", "Paint"), choice("erase", "Erase")]));
    if (!rub && channels === 3) {
      const paint = element("input", { type: "color", value: "#ffffff", "aria-label": "Colour to paint with" });
      paint.addEventListener("input", () => {
        colour = [1, 3, 5].map((at) => Math.round(parseInt(paint.value.slice(at, at + 2), 16) * top / 255));
      });
      tools.append(paint);
    }
    const brush = element("input", { type: "range", min: "1", max: String(Math.max(2, Math.round(Math.min(height, width) / 3))),
      value: String(size), "aria-label": "Width of the brush in pixels" });
    brush.addEventListener("input", () => { size = Number(brush.value); });
    const clear = element("button", { type: "button" }, rub ? "Bring all back" : "Empty");
    clear.addEventListener("click", () => { (rub ? hidden : pixels).fill(0); render(); tell(); });
    tools.append(brush, clear);
    render();
  };

  const ready = new WeakSet();
  const look = () => {
    document.querySelectorAll(".lk-pad").forEach((pad) => { if (!ready.has(pad)) { ready.add(pad); setup(pad); } });
    document.querySelectorAll(".lk-off textarea").forEach((field) => { field.tabIndex = -1; }); // keys pass them by
  };
  document.addEventListener("click", (event) => {
    const button = event.target.closest && event.target.closest("[data-set]");
    if (button) set(button.dataset.set, button.dataset.value);
  });
  new MutationObserver(look).observe(document.documentElement, { childList: true, subtree: true });
})();
