// The report's viewer: one picture of a stack at a time, with the boxes of its findings.
const WHEEL_STEP_PX = 40, DRAG_STEP_PX = 6, PAGE_STEP = 10, MAX_ZOOM = 12;
const CROP_BOXES = 3, LEAST_CROP = 0.2; // a row's picture: how many boxes wide, and how much of the whole at least

class Viewer {
  constructor(root, report) {
    const part = (name) => root.querySelector(`[data-part="${name}"]`);
    Object.assign(this, { root, report, part, words: report.words, boxes: true, selected: null, pointers: new Map() });
    this.canvas = part("canvas");
    this.context = this.canvas.getContext("2d");
    this.colours = getComputedStyle(this.canvas);
    this.picture = make("canvas");
    root.hidden = false;
    root.closest(".study").classList.add("viewed");
    this.listen();
    const paper = matchMedia("print");
    paper.addEventListener("change", () => this.crop(paper.matches));
    this.crop(paper.matches);
    report.galleries.forEach((gallery, i) => part("stack").append(make("option", { value: i, textContent: gallery.title })));
    part("stack").closest("label").hidden = report.galleries.length < 2;
    this.showStack(report.galleries[0]);
    const first = report.findings.find((finding) => this.galleryOf(finding));
    if (first) this.showFinding(first.number, { quiet: true });
    new ResizeObserver(() => this.resize()).observe(this.part("screen"));
    new IntersectionObserver((entries, observer) => this.come(entries, observer)).observe(root);
  }

  /* Nothing is loaded before the viewer is on the screen: a page may hold many studies. */
  come(entries, observer) {
    if (!entries.some(({ isIntersecting }) => isIntersecting)) return;
    observer.disconnect();
    this.seen = true;
    this.stack.wantNear(this.at.axial);
  }

  /* In the rows, show what is around each box; the whole picture is beside them. */
  crop(whole) {
    for (const picture of this.root.closest(".study").querySelectorAll(".finding .picture")) {
      const rect = picture.querySelector("rect");
      if (!rect) continue;
      const [x, y, width, height] = ["x", "y", "width", "height"].map((name) => Number(rect.getAttribute(name)));
      const side = whole ? 1 : limit(CROP_BOXES * Math.max(width, height), LEAST_CROP, 1);
      const [left, top] = [x + width / 2, y + height / 2].map((middle) => limit(middle - side / 2, 0, 1 - side));
      picture.querySelector("img").style.transform = `scale(${1 / side}) translate(${-100 * left}%, ${-100 * top}%)`;
      picture.querySelector("svg").setAttribute("viewBox", `${left} ${top} ${side} ${side}`);
    }
  }

  galleryOf(finding) {
    return this.report.galleries.find(
      (gallery) => gallery.series_uid === finding.series_uid && gallery.views.includes(finding.view));
  }

  showStack(gallery) {
    if (this.gallery === gallery) return;
    this.gallery = gallery;
    const known = stacks.get(gallery.name);
    this.stack = known ?? new Stack(gallery, (index) => this.pictureCame(index));
    this.part("stack").value = this.report.galleries.indexOf(gallery);
    const solid = gallery.plane === "axial" && gallery.mm_per_px && gallery.spacing_mm && gallery.slice_count > 7;
    this.planes = { axial: axial(this.stack) };
    if (solid) Object.assign(this.planes, { coronal: reformat(this.stack, true), sagittal: reformat(this.stack, false) });
    this.part("planes").hidden = !solid;
    this.at = Object.fromEntries(Object.entries(this.planes).map(([name, { count }]) => [name, count >> 1]));
    this.findings = this.report.findings.filter((finding) => this.galleryOf(finding) === gallery);
    this.part("window").replaceChildren(...gallery.windows.map(({ name, center, width }, i) =>
      make("option", { value: i, textContent: name || `${shown(center)} / ${shown(width)}` })),
      make("option", { value: "", textContent: this.words.own_window, hidden: true }));
    this.strip();
    this.setWindow(gallery.windows[0].center, gallery.windows[0].width);
    this.showPlane("axial");
  }

  showPlane(name) {
    if (!this.planes[name]) return;
    this.plane = name;
    for (const button of this.part("planes").querySelectorAll("button"))
      button.setAttribute("aria-pressed", button.value === name);
    const { count } = this.planes[name];
    Object.assign(this.part("slider"), { min: 1, max: count });
    this.part("strip").toggleAttribute("hidden", name !== "axial"); // its marks are of slices
    const letters = EDGES[name === "axial" ? this.gallery.plane : name] ?? "";
    ["left", "right", "top", "bottom"].forEach((edge, i) => (this.part(edge).textContent = letters[i] ?? ""));
    this.fit();
    this.go(this.at[name]);
  }

  go(index) {
    const { count } = this.planes[this.plane];
    this.at[this.plane] = limit(Math.round(index), 0, count - 1);
    const number = this.at[this.plane] + 1, slider = this.part("slider");
    slider.value = number;
    const position = this.plane === "axial" ? this.gallery.positions_mm[number - 1] : undefined;
    const text = fill(this.words.place, { number, count }) + (position === undefined ? "" : `, ${shown(position)} mm`);
    slider.setAttribute("aria-valuetext", text);
    this.part("place").textContent = text;
    if (this.seen) this.stack.wantNear(this.at.axial);
    this.here();
    this.draw();
  }

  /* Buttons for the findings on this picture. */
  here() {
    const plane = this.planes[this.plane], index = this.at[this.plane];
    const there = this.findings.filter((finding) => plane.has(finding, index));
    const wanted = there.map(({ number }) => number).join();
    if (wanted === this.listed) return;
    this.listed = wanted;
    this.part("here").replaceChildren(...there.map((finding) => {
      const button = make("button", { type: "button", textContent: `${finding.number} ${finding.what}` });
      button.addEventListener("click", () => this.select(finding.number));
      return button;
    }));
  }

  showFinding(number, { quiet = false } = {}) {
    const finding = this.report.findings.find((each) => each.number === number);
    const gallery = finding && this.galleryOf(finding);
    if (!gallery) return false;
    this.showStack(gallery);
    for (const [name, plane] of Object.entries(this.planes)) this.at[name] = limit(plane.key(finding), 0, plane.count - 1);
    this.selected = number;
    this.showPlane("axial");
    if (!quiet) this.mark(number);
    return true;
  }

  /* From a box to its row. */
  select(number) {
    this.selected = number;
    this.mark(number)?.scrollIntoView({ block: "nearest" });
    this.draw();
  }

  mark(number) {
    const rows = this.root.closest(".study").querySelectorAll(".finding");
    for (const row of rows) row.classList.toggle("chosen", Number(row.dataset.number) === number);
    return [...rows].find((row) => row.classList.contains("chosen"));
  }

  setWindow(center, width) {
    this.window = { center, width: Math.max(width, 1) };
    const { values, inverted, windows } = this.gallery;
    const lowest = center - this.window.width / 2;
    this.table = new Uint32Array(256);
    for (let level = 0; level < 256; level++) {
      const share = (values[inverted ? 255 - level : level] - lowest) / this.window.width;
      const grey = Math.round(limit(inverted ? 1 - share : share, 0, 1) * 255);
      this.table[level] = 0xff000000 | (grey << 16) | (grey << 8) | grey;
    }
    const named = windows.findIndex((each) => each.center === center && each.width === width);
    this.part("window").value = named < 0 ? "" : named;
    this.part("center").value = Math.round(center);
    this.part("width").value = Math.round(this.window.width);
    this.draw();
  }

  fit() {
    this.zoom = 1;
    this.pan = [0, 0];
    this.draw();
  }

  zoomBy(factor, x = this.canvas.clientWidth / 2, y = this.canvas.clientHeight / 2) {
    const zoom = limit(this.zoom * factor, 1, MAX_ZOOM), change = zoom / this.zoom;
    const middle = [this.canvas.clientWidth / 2, this.canvas.clientHeight / 2];
    this.pan = [x, y].map((at, i) => (at - middle[i]) * (1 - change) + this.pan[i] * change);
    this.zoom = zoom;
    if (zoom === 1) this.pan = [0, 0];
    this.draw();
  }

  pictureCame(index) {
    if (this.plane !== "axial" || index === this.at.axial) this.draw();
  }

  resize() {
    const { clientWidth, clientHeight } = this.part("screen");
    this.canvas.width = Math.round(clientWidth * devicePixelRatio);
    this.canvas.height = Math.round(clientHeight * devicePixelRatio);
    this.paint();
  }

  draw() {
    this.waiting ??= requestAnimationFrame(() => this.paint());
  }

  paint() {
    cancelAnimationFrame(this.waiting);
    this.waiting = null;
    const { context, canvas, picture } = this;
    const plane = this.planes[this.plane], index = this.at[this.plane], levels = plane.levels(index);
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    this.part("missing").textContent = levels ? "" : this.excuse(levels);
    if (!levels) return;
    this.colour(plane, levels);
    const scale = Math.min(canvas.width / plane.width, canvas.height / plane.height) * this.zoom;
    const left = (canvas.width - plane.width * scale) / 2 + this.pan[0] * devicePixelRatio;
    const top = (canvas.height - plane.height * scale) / 2 + this.pan[1] * devicePixelRatio;
    this.shape = { scale, left, top };
    context.imageSmoothingQuality = scale < 1 ? "high" : "low";
    context.drawImage(picture, left, top, plane.width * scale, plane.height * scale);
    if (this.plane !== "axial") this.paintSlice(plane);
    if (this.boxes) for (const finding of this.findings) if (plane.has(finding, index)) this.paintBox(finding, plane, index);
  }

  excuse(levels) {
    if (levels === null) return this.words.unreadable;
    return this.stack.lost ? this.words.missing : this.words.loading;
  }

  /* Put a picture through the window. */
  colour({ width, height }, levels) {
    const { picture, table } = this;
    if (picture.width !== width || picture.height !== height || !this.image) {
      Object.assign(picture, { width, height });
      this.image = new ImageData(width, height);
      this.pixels = new Uint32Array(this.image.data.buffer);
    }
    for (let i = 0; i < levels.length; i++) this.pixels[i] = table[levels[i]];
    picture.getContext("2d").putImageData(this.image, 0, 0);
  }

  /* Where the axial picture lies, as a line through a reformat. */
  paintSlice(plane) {
    const { context, canvas, shape: { scale, top } } = this;
    const y = top + (plane.rowOf(this.at.axial + 1) + 0.5) * scale;
    context.strokeStyle = this.colours.getPropertyValue("--slice");
    context.lineWidth = devicePixelRatio;
    context.setLineDash([]);
    context.beginPath();
    context.moveTo(0, y);
    context.lineTo(canvas.width, y);
    context.stroke();
  }

  rectOf(finding, plane) {
    const { scale, left, top } = this.shape;
    return plane.rect(finding).map((value, i) => (i % 2 ? top : left) + value * scale);
  }

  paintBox(finding, plane, index) {
    const { context } = this, [x1, y1, x2, y2] = this.rectOf(finding, plane);
    const chosen = finding.number === this.selected, unit = devicePixelRatio;
    const strokes = [["#000", chosen ? 5 : 3.5], [this.colours.getPropertyValue("--box"), chosen ? 2.5 : 1.5]];
    for (const [colour, width] of strokes) {
      context.strokeStyle = colour;
      context.lineWidth = width * unit;
      context.setLineDash(plane.key(finding) === index ? [] : [5 * unit, 4 * unit]); // whole where it was drawn
      context.strokeRect(x1, y1, x2 - x1, y2 - y1);
    }
    context.font = `600 ${13 * unit}px system-ui, sans-serif`;
    context.lineWidth = 3 * unit;
    context.setLineDash([]);
    context.strokeStyle = "#000";
    context.strokeText(finding.number, x2 + 4 * unit, y1 + 10 * unit);
    context.fillStyle = this.colours.getPropertyValue("--box");
    context.fillText(finding.number, x2 + 4 * unit, y1 + 10 * unit);
  }

  /* The strip under the slider: what was not read, and where findings lie. */
  strip() {
    const strip = this.part("strip"), count = this.gallery.slice_count;
    const rect = (kind, first, last, y, height) => {
      const element = document.createElementNS("http://www.w3.org/2000/svg", "rect");
      const sizes = { class: kind, x: first - 1, y, width: last - first + 1, height };
      for (const [name, value] of Object.entries(sizes)) element.setAttribute(name, value);
      return element;
    };
    strip.setAttribute("viewBox", `0 0 ${count} 10`);
    strip.replaceChildren(rect("read", 1, count, 4, 6),
      ...this.gallery.unread.flatMap(([first, last]) => [rect("blank", first, last, 4, 6), rect("unread", first, last, 5.5, 3)]),
      ...this.findings.map(({ first, last }) => rect("found", first, last, 0, 3)));
    const unread = this.gallery.unread.reduce((sum, [first, last]) => sum + last - first + 1, 0);
    strip.setAttribute("aria-label", fill(this.words.strip, { count, unread }));
  }

  step(by) {
    this.go(this.at[this.plane] + by);
  }

  neighbour(by) {
    const place = this.report.findings.findIndex(({ number }) => number === this.selected) + by;
    const finding = this.report.findings[limit(place, 0, this.report.findings.length - 1)];
    if (finding) this.showFinding(finding.number);
  }

  listen() {
    const { part } = this, screen = part("screen");
    part("slider").addEventListener("input", ({ target }) => this.go(target.value - 1));
    part("stack").addEventListener("change", ({ target }) => this.showStack(this.report.galleries[target.value]));
    part("planes").addEventListener("click", ({ target }) => target.value && this.showPlane(target.value));
    part("window").addEventListener("change", ({ target }) => {
      const { center, width } = this.gallery.windows[target.value];
      this.setWindow(center, width);
    });
    for (const name of ["center", "width"])
      part(name).addEventListener("change", () => this.setWindow(Number(part("center").value), Number(part("width").value)));
    part("boxes").addEventListener("change", ({ target }) => this.showBoxes(target.checked));
    part("fit").addEventListener("click", () => this.fit());
    screen.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    screen.addEventListener("keydown", (event) => this.key(event));
    screen.addEventListener("dblclick", () => this.fit());
    screen.addEventListener("pointerdown", (event) => this.press(event));
    screen.addEventListener("pointermove", (event) => this.move(event));
    for (const name of ["pointerup", "pointercancel"]) screen.addEventListener(name, (event) => this.release(event));
    screen.addEventListener("contextmenu", (event) => event.preventDefault());
  }

  showBoxes(on) {
    this.boxes = this.part("boxes").checked = on;
    const rows = this.root.closest(".study").querySelector(".toggle input"); // hidden beside a viewer
    if (rows) rows.checked = on;
    this.draw();
  }

  wheel(event) {
    event.preventDefault();
    const pixels = event.deltaMode ? event.deltaY * WHEEL_STEP_PX : event.deltaY;
    if (event.ctrlKey) return this.zoomBy(Math.exp(-pixels / 300), event.offsetX, event.offsetY);
    // A mouse's notch is one picture, however far it goes; a touchpad's small moves add up.
    this.turned = Math.abs(pixels) >= WHEEL_STEP_PX ? Math.sign(pixels) * WHEEL_STEP_PX : (this.turned ?? 0) + pixels;
    const steps = Math.trunc(this.turned / WHEEL_STEP_PX);
    this.turned -= steps * WHEEL_STEP_PX;
    if (steps) this.step(steps);
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const planes = { a: "axial", c: "coronal", s: "sagittal" }, { count } = this.planes[this.plane];
    const does = {
      ArrowDown: () => this.step(1), ArrowRight: () => this.step(1),
      ArrowUp: () => this.step(-1), ArrowLeft: () => this.step(-1),
      PageDown: () => this.step(PAGE_STEP), PageUp: () => this.step(-PAGE_STEP),
      Home: () => this.go(0), End: () => this.go(count - 1),
      "+": () => this.zoomBy(1.25), "=": () => this.zoomBy(1.25), "-": () => this.zoomBy(0.8), 0: () => this.fit(),
      b: () => this.showBoxes(!this.boxes), n: () => this.neighbour(1), p: () => this.neighbour(-1),
    }[event.key] ?? (planes[event.key] && (() => this.showPlane(planes[event.key])));
    const preset = this.gallery.windows[Number(event.key) - 1];
    if (!does && !preset) return;
    event.preventDefault();
    if (does) does();
    else this.setWindow(preset.center, preset.width);
  }

  press(event) {
    this.part("screen").setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, [event.offsetX, event.offsetY]);
    this.moved = 0;
    this.held = 0;
  }

  move(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const after = [event.offsetX, event.offsetY], by = after.map((value, i) => value - before[i]);
    const other = [...this.pointers].find(([id]) => id !== event.pointerId)?.[1];
    this.pointers.set(event.pointerId, after);
    this.moved += Math.hypot(...by);
    if (other) this.pinch(before, after, other);
    else if (event.pointerType === "touch") this.dragSlices(by[1]);
    else if (event.shiftKey || event.buttons & 4) this.panBy(by);
    else this.setWindow(this.window.center + this.dragUnit() * by[1], this.window.width + this.dragUnit() * by[0]);
  }

  release(event) {
    if (!this.pointers.delete(event.pointerId) || this.moved > 4 || event.type !== "pointerup") return;
    const [x, y] = [event.offsetX, event.offsetY].map((value) => value * devicePixelRatio);
    const plane = this.planes[this.plane], index = this.at[this.plane];
    const hit = this.shape && this.findings.filter((each) => plane.has(each, index)).find((each) => {
      const [x1, y1, x2, y2] = this.rectOf(each, plane);
      return x1 <= x && x <= x2 && y1 <= y && y <= y2;
    });
    if (hit) this.select(hit.number);
  }

  dragUnit() {
    return Math.max(this.window.width / 400, 0.5); // the same feel in a narrow and in a wide window
  }

  dragSlices(pixels) {
    this.held += pixels;
    const steps = Math.trunc(this.held / DRAG_STEP_PX);
    this.held -= steps * DRAG_STEP_PX;
    if (steps) this.step(steps);
  }

  panBy(by) {
    this.pan = this.pan.map((value, i) => value + by[i]);
    this.draw();
  }

  pinch(before, after, other) {
    const apart = (one) => Math.hypot(one[0] - other[0], one[1] - other[1]);
    this.zoomBy(apart(after) / Math.max(apart(before), 1), (after[0] + other[0]) / 2, (after[1] + other[1]) / 2);
    this.panBy([(after[0] - before[0]) / 2, (after[1] - before[1]) / 2]);
  }
}

