// Pictures and numbers are complete without this. It draws the maps, fades them over the photographs, switches between
// them, and reads their values.
const maps = (() => {
  let data;
  return () => (data ??= JSON.parse(document.getElementById("maps").textContent)); // when the first one is drawn
})();
const NO_VALUE = 0; // the byte of a cell without a value
const LONGER_SIDE = 448; // of a drawn map, in pixels

/** Return the value of each cell, NaN where there is none. */
const cellsOf = (map) => {
  const bytes = atob(map.data);
  return Float64Array.from(bytes, (one) => {
    const byte = one.charCodeAt(0);
    return byte === NO_VALUE ? NaN : ((byte - 128) / 127) * map.scale;
  });
};

/** Return the colour of a value as red, green, blue and opacity in 0 to 255, as the picture files have it. */
const colourOf = (map) => {
  const { ramps, strongest } = maps();
  return (value) => {
    const share = map.signed ? Math.abs(value) / map.high : (value - map.low) / (map.high - map.low);
    const strength = Math.min(Math.max(share || 0, 0), 1);
    const stops = ramps[map.signed ? (value > 0 ? "positive" : "negative") : "ranked"];
    const place = strength * (stops.length - 1);
    const first = Math.min(Math.floor(place), stops.length - 2);
    const channels = stops[first].map((low, i) => low + (place - first) * (stops[first + 1][i] - low));
    return [...channels.map((one) => 255 * one), 255 * strongest * strength ** 0.75];
  };
};

/** Return the colours of 256 values from the low to the high end of the scale. */
const coloursOf = (map) => {
  const colour = colourOf(map);
  return Array.from({ length: 256 }, (_, i) => colour(map.low + ((map.high - map.low) * i) / 255));
};

/** Return, for each pixel, the two cells it lies between and the share of the second, which is flat at their centres. */
const between = (pixels, cells, size) =>
  Array.from({ length: pixels }, (_, i) => {
    const place = Math.min(Math.max((i + 0.5) / pixels / size - 0.5, 0), cells - 1);
    const first = Math.min(Math.floor(place), Math.max(cells - 2, 0));
    const share = place - first;
    return [first, Math.min(first + 1, cells - 1), share * share * (3 - 2 * share)];
  });

/** Draw a map, its cells faded into each other; the values that are read are the cells' own. */
const draw = (canvas, map, cells) => {
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  const colours = coloursOf(map);
  const across = between(canvas.width, map.columns, map.width);
  let at = 0;
  for (const [up, down, lower] of between(canvas.height, map.rows, map.height)) {
    for (const [left, right, further] of across) {
      const value = (row) =>
        (1 - further) * (cells[row * map.columns + left] || 0) + further * (cells[row * map.columns + right] || 0);
      const share = ((1 - lower) * value(up) + lower * value(down) - map.low) / (map.high - map.low);
      const colour = colours[Math.round(255 * Math.min(Math.max(share, 0), 1))];
      for (const channel of colour) image.data[at++] = channel;
    }
  }
  context.putImageData(image, 0, 0);
};

const drawScale = (canvas, map) => {
  const image = new ImageData(256, 1);
  coloursOf(map).forEach((colour, i) => image.data.set(colour, 4 * i));
  canvas.getContext("2d").putImageData(image, 0, 0);
};

/** Format a number so that its rounding is small beside its tolerance, with a true minus. */
const format = (value, tolerance) => {
  const size = Math.abs(value);
  const finest = Math.floor(Math.log10(tolerance)) - 1; // the power of ten of the last digit
  const power = size > 0 ? Math.floor(Math.log10(size)) : finest;
  const within = (digits) => Math.min(Math.max(digits, 0), 20);
  const plain = finest > -8 && size < 1e6;
  const text = plain ? size.toFixed(within(-finest)) : size.toExponential(within(power - finest));
  return (value < 0 && Number(text) !== 0 ? "−" : "") + text.replace("e-", "e−").replace("e+", "e");
};

const element = (name, className, parent) => {
  const made = document.createElement(name);
  made.className = className;
  parent.append(made);
  return made;
};

class Viewer {
  constructor(section) {
    this.section = section;
    section.classList.add("ready");
    this.find = (selector) => section.querySelector(selector);
    this.questions = [...section.querySelectorAll(".question")];
    this.mix = this.find(".mix input");
    this.told = this.find(".told");
    this.swatch = this.find(".swatch");
    if (this.questions.length === 0) {
      this.find(".reading").remove();
      return;
    }
    this.makeSwitch();
    this.prepareStage();
    this.mix.addEventListener("input", () => this.fade());
    section.addEventListener("change", (event) => {
      if (event.target.matches(".card input")) this.show();
    });
    for (const row of section.querySelectorAll("[data-box]")) {
      const frame = () => this.frame(this.region, ...row.dataset.box.split(" ").map(Number));
      const unframe = () => (this.region.hidden = true);
      row.addEventListener("pointerenter", frame);
      row.addEventListener("focus", frame);
      row.addEventListener("pointerleave", unframe);
      row.addEventListener("blur", unframe);
    }
    this.show();
  }

  /** Make a switch between the questions, if there are several. */
  makeSwitch() {
    if (this.questions.length < 2) return;
    const fieldset = document.createElement("fieldset");
    fieldset.className = "switch";
    element("legend", "unseen", fieldset).textContent = "Question";
    this.questions.forEach((question, i) => {
      const label = element("label", "", fieldset);
      const radio = element("input", "", label);
      Object.assign(radio, { type: "radio", name: `question-${this.section.id}`, value: i, checked: i === 0 });
      radio.autocomplete = "off";
      label.append(question.querySelector("h3").textContent);
      radio.addEventListener("change", () => this.ask(i));
    });
    this.questions[0].before(fieldset);
  }

  prepareStage() {
    this.stage = this.find(".stage");
    const photograph = this.find(".photograph");
    const link = this.find(".stage a");
    if (link) link.replaceWith(photograph);
    if (!photograph) return;
    this.stage.classList.toggle("tiny", photograph.width < 64);
    this.veil = element("div", "veil", this.stage);
    const grey = element("img", "grey", this.veil);
    grey.src = photograph.src;
    grey.alt = "";
    this.canvas = element("canvas", "", this.veil);
    const [width, height] = [photograph.getAttribute("width"), photograph.getAttribute("height")].map(Number);
    const scale = LONGER_SIDE / Math.max(width, height);
    Object.assign(this.canvas, {
      width: Math.max(Math.round(width * scale), 1),
      height: Math.max(Math.round(height * scale), 1),
    });
    this.still = element("img", "", this.veil); // where only a picture is known
    this.region = element("div", "mark region", this.stage);
    this.cursor = element("div", "mark", this.stage);
    this.region.hidden = this.cursor.hidden = true;
    this.stage.tabIndex = 0;
    this.stage.setAttribute("role", "application"); // arrow keys come here from screen readers, too
    this.stage.setAttribute("aria-roledescription", "map");
    const point = (event) => {
      const frame = this.stage.getBoundingClientRect();
      this.pointAt((event.clientX - frame.left) / frame.width, (event.clientY - frame.top) / frame.height);
    };
    this.stage.addEventListener("pointermove", point);
    this.stage.addEventListener("pointerdown", point);
    this.stage.addEventListener("pointerleave", () => this.read(null));
    this.stage.addEventListener("blur", () => this.read(null));
    this.stage.addEventListener("keydown", (event) => this.move(event));
  }

  get question() {
    return this.questions.find((one) => !one.hidden);
  }

  /** Show a question, with the method that was chosen before if it is there. */
  ask(number) {
    const label = this.chosen?.dataset.label;
    this.questions.forEach((one, i) => (one.hidden = i !== number));
    this.choose(label);
    for (const radio of this.section.querySelectorAll(".switch input")) radio.checked = Number(radio.value) === number;
    this.show();
  }

  get chosen() {
    return this.question?.querySelector(".card :checked");
  }

  choose(label) {
    for (const radio of this.question.querySelectorAll(".card input")) {
      if (radio.dataset.label === label) radio.checked = true;
    }
  }

  /** Show the chosen method's answer and draw its map. */
  show() {
    if (this.questions.every((one) => !one.hidden)) this.questions.forEach((one, i) => (one.hidden = i > 0));
    const number = Number(this.chosen.value);
    const answers = [...this.question.querySelectorAll(".answer")];
    answers.forEach((one, i) => (one.hidden = i !== number));
    const answer = answers[number];
    this.map = answer.dataset.map === undefined ? null : maps().maps[Number(answer.dataset.map)];
    this.cells = this.map && cellsOf(this.map);
    if (!this.veil) return;
    this.find(".scale").hidden = !this.map;
    this.canvas.hidden = !this.map;
    const overlay = this.chosen.parentElement.querySelector("img");
    this.still.hidden = Boolean(this.map) || !overlay;
    if (this.map) {
      draw(this.canvas, this.map, this.cells);
      this.drawScale();
    } else if (overlay) {
      this.still.src = overlay.src;
      this.still.alt = "";
    }
    this.stage.setAttribute("aria-label", `${answer.dataset.alt} The arrow keys read its values.`);
    this.position = null;
    this.read(null);
    this.fade();
  }

  drawScale() {
    const unit = this.map.unit ? ` ${this.map.unit}` : "";
    drawScale(this.find(".scale canvas"), this.map);
    const tolerance = (this.map.high - this.map.low) / 20;
    this.find(".scale .low").textContent = format(this.map.low, tolerance);
    this.find(".scale .high").textContent = format(this.map.high, tolerance) + unit;
  }

  fade() {
    if (this.veil) this.veil.style.opacity = this.mix.value / 100;
    this.mix.setAttribute("aria-valuetext", `${this.mix.value} % map`);
  }

  /** Read the cell at a point, given as shares of the picture. */
  pointAt(x, y) {
    if (!this.map || x < 0 || y < 0 || x >= 1 || y >= 1) return this.read(null);
    const column = Math.min(Math.floor(x / this.map.width), this.map.columns - 1);
    const row = Math.min(Math.floor(y / this.map.height), this.map.rows - 1);
    return this.read({ row, column });
  }

  /** Move the cursor by arrow keys, ten cells at once with the shift key. */
  move(event) {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!step || !this.map) return;
    event.preventDefault();
    const { rows, columns } = this.map;
    const far = event.shiftKey ? 10 : 1;
    const from = this.position ?? { row: rows >> 1, column: columns >> 1 };
    const within = (place, count) => Math.min(Math.max(place, 0), count - 1);
    const [down, right] = this.position ? step : [0, 0]; // the first key shows where the cursor is
    this.read({ row: within(from.row + far * down, rows), column: within(from.column + far * right, columns) });
    this.find(".live").textContent = this.told.textContent;
  }

  /** Show the value of a cell. */
  read(position) {
    this.position = position ?? this.position;
    this.cursor.hidden = !position;
    this.swatch.style.background = "";
    if (!position) {
      this.told.textContent = this.map
        ? "Point at the picture, or focus it and use the arrow keys."
        : "Only a picture of this map is stored.";
      return;
    }
    const { row, column } = position;
    const { width, height, rows, columns, scale } = this.map;
    const value = this.cells[row * columns + column];
    this.frame(this.cursor, column * width, row * height, width, height);
    const where = `row ${row + 1} of ${rows}, column ${column + 1} of ${columns}`;
    if (Number.isNaN(value)) {
      this.told.textContent = `no value; ${where}`;
      return;
    }
    const [red, green, blue] = colourOf(this.map)(value);
    if (value !== 0) this.swatch.style.background = `rgb(${red}, ${green}, ${blue})`;
    const sign = value > 0 && this.map.signed ? "+" : "";
    const unit = this.map.unit ? ` ${this.map.unit}` : "";
    const meaning = !this.map.signed || value === 0 ? "" : `: ${value > 0 ? this.map.positive : this.map.negative}`;
    this.told.textContent = `${sign}${format(value, scale / 254)}${unit}${meaning}; ${where}`;
  }

  /** Put a mark around a box, given as shares of the picture. */
  frame(mark, left, top, width, height) {
    if (!mark) return;
    const percent = (share) => `${100 * share}%`;
    Object.assign(mark.style, {
      left: percent(left), top: percent(top),
      width: percent(Math.min(width, 1 - left)), height: percent(Math.min(height, 1 - top)),
    });
    mark.hidden = false;
  }
}

// A photograph is prepared when it comes near the screen, so that long pages open at once.
const viewers = new Map();
const prepared = (section) => {
  if (!viewers.has(section)) viewers.set(section, new Viewer(section));
  return viewers.get(section);
};
const sections = [...document.querySelectorAll(".viewer")];
const every = document.querySelector(".every");
const coming = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) continue;
      coming.unobserve(target);
      follow(prepared(target));
    }
  },
  { rootMargin: "600px" },
);

/** Choose for one photograph what was chosen for all, by the names of the controls. */
const chosenForAll = new Set();
const follow = (viewer, names = chosenForAll) => {
  if (!every || viewer.questions.length === 0) return;
  const { method, kind, mix } = every.elements;
  if (names.has("kind")) {
    const number = viewer.questions.findIndex((one) => one.dataset.kind === kind.value);
    if (number >= 0) viewer.ask(number);
  }
  if (names.has("method")) {
    viewer.choose(method.value);
    viewer.show();
  }
  if (names.has("mix")) {
    viewer.mix.value = mix.value;
    viewer.fade();
  }
};

if (every) {
  const { method, kind } = every.elements;
  const fill = (select, names) => {
    for (const name of names) element("option", "", select).textContent = name;
    select.parentElement.hidden = names.length < 2;
    select.parentElement.style.display = names.length < 2 ? "none" : "";
  };
  const all = (selector, name) => [...document.querySelectorAll(selector)].map((one) => one.dataset[name]);
  fill(method, [...new Set(all(".card input", "label"))]);
  fill(kind, [...new Set(all(".question", "kind"))].filter(Boolean));
  every.addEventListener("input", (event) => {
    chosenForAll.add(event.target.name);
    for (const viewer of viewers.values()) follow(viewer, new Set([event.target.name]));
  });
  every.addEventListener("submit", (event) => event.preventDefault());
}
// the first one at once: in a frame of another page, observers may wait
if (sections.length > 0) follow(prepared(sections[0]));
for (const section of sections) coming.observe(section);

const theme = document.querySelector(".theme");
const dark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";
const label = () => {
  theme.textContent = isDark() ? "Light" : "Dark";
  theme.setAttribute("aria-label", `${theme.textContent} colours`);
};
theme.addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  label();
});
dark.addEventListener("change", label);
label();
