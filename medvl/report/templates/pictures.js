// Pictures of the report's viewer and the planes through them. They come as packs of JPEG, in scripts beside the page;
// of their 256 levels the gallery's `values` say what they stand for, so that any window can be shown.
"use strict";
const BOX_UNITS = 1000; // boxes are in thousandths of a picture
// The patient's directions at the left, right, upper and lower edge.
const EDGES = { axial: "RLAP", coronal: "RLSI", sagittal: "APSI" };
const stacks = new Map();

globalThis.medvlPack = (name, number, pictures) => stacks.get(name)?.arrive(number, pictures);

const limit = (value, low, high) => Math.min(Math.max(value, low), high);
const make = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};
const fill = (text, values) => text.replace(/\{(\w+)\}/g, (_, name) => values[name]);
const shown = (number) => String(Math.round(number * 10) / 10).replace("-", "−");

/* The unpacked grey pictures of one gallery. Packs are fetched nearest first, one at a time. */
class Stack {
  constructor(gallery, onPicture) {
    Object.assign(this, { gallery, onPicture, grey: [], asked: new Set(), busy: false, near: 0 });
    const side = gallery.side_px;
    this.canvas = make("canvas", { width: side, height: side });
    this.context = this.canvas.getContext("2d", { willReadFrequently: true });
    stacks.set(gallery.name, this);
  }

  wantNear(index) {
    this.near = index;
    if (!this.busy) this.fetchNext();
  }

  fetchNext() {
    const { packs, pack_slices: size } = this.gallery;
    const missing = packs.map((_, number) => number).filter((number) => !this.asked.has(number));
    if (!missing.length) return;
    const far = (number) => Math.abs(number * size + size / 2 - this.near);
    const number = missing.reduce((one, other) => (far(other) < far(one) ? other : one));
    this.asked.add(number);
    this.busy = true;
    const script = make("script", { src: packs[number], onerror: () => this.lose(script) });
    this.script = script;
    document.head.append(script);
  }

  async arrive(number, pictures) {
    for (const [offset, picture] of pictures.entries()) {
      const index = number * this.gallery.pack_slices + offset;
      this.grey[index] = picture ? await this.unpack(picture).catch(() => null) : null;
      this.onPicture(index);
    }
    this.finish(this.script);
  }

  lose(script) {
    this.lost = true; // the page was moved without its folder
    this.onPicture(this.near);
    this.finish(script);
  }

  finish(script) {
    script.remove(); // with the text it holds
    this.busy = false;
    this.fetchNext();
  }

  async unpack(picture) {
    const bytes = Uint8Array.from(atob(picture), (letter) => letter.charCodeAt(0));
    const options = { colorSpaceConversion: "none" };
    const image = await createImageBitmap(new Blob([bytes], { type: "image/jpeg" }), options);
    const side = this.gallery.side_px;
    this.context.drawImage(image, 0, 0);
    image.close();
    const pixels = new Uint32Array(this.context.getImageData(0, 0, side, side).data.buffer);
    return Uint8Array.from(pixels); // keeps the lowest byte: red, of a grey picture
  }
}

/* What a plane shows: how many pictures, of which size, where a box lies in one, and which levels its pixels have. */
const axial = (stack) => {
  const { side_px: side, slice_count: count } = stack.gallery;
  return {
    count, width: side, height: side,
    levels: (index) => stack.grey[index],
    rect: ({ box }) => box.map((value) => (value / BOX_UNITS) * side),
    has: (finding, index) => finding.first - 1 <= index && index <= finding.last - 1,
    key: (finding) => finding.key - 1,
  };
};

/* Rows of equal height from the first to the last slice: the two slices a row lies between, and its share of each. */
const rowsOf = ({ positions_mm: at, mm_per_px: mm, spacing_mm: spacing }) => {
  const down = Math.sign(at[at.length - 1] - at[0]);
  const rows = [];
  for (let row = 0, below = 0; row <= Math.abs(at[at.length - 1] - at[0]) / mm; row++) {
    const depth = row * mm;
    while (below < at.length - 2 && (at[below + 1] - at[0]) * down <= depth) below++;
    const start = (at[below] - at[0]) * down, step = (at[below + 1] - at[below]) * down;
    const share = limit((depth - start) / step, 0, 1);
    const empty = step > 1.5 * spacing && Math.min(share, 1 - share) * step > spacing / 2; // in a gap
    rows.push({ below, share, empty });
  }
  return rows;
};

const reformat = (stack, across) => {
  const side = stack.gallery.side_px, rows = rowsOf(stack.gallery);
  const rowOf = (slice) => {
    const row = rows.findIndex(({ below, share }) => below + share >= slice - 1);
    return row < 0 ? rows.length - 1 : row;
  };
  const depth = across ? [1, 3] : [0, 2]; // which corners of a box bound it along the picture number
  const wide = across ? [0, 2] : [1, 3];
  return {
    count: side, width: side, height: rows.length, rowOf, rows,
    levels: (index) => {
      const levels = new Uint8Array(side * rows.length);
      const start = across ? index * side : index, step = across ? 1 : side;
      rows.forEach(({ below, share, empty }, row) => {
        const upper = stack.grey[below], lower = stack.grey[below + 1];
        if (!upper || !lower || empty) return;
        for (let x = 0, from = start, to = row * side; x < side; x++, from += step, to++)
          levels[to] = upper[from] + (lower[from] - upper[from]) * share + 0.5;
      });
      return levels;
    },
    rect: ({ box, first, last }) => {
      const [left, right] = wide.map((corner) => (box[corner] / BOX_UNITS) * side);
      return [left, rowOf(first), right, rowOf(last) + 1];
    },
    has: ({ box }, index) => box[depth[0]] * side <= (index + 1) * BOX_UNITS && index * BOX_UNITS <= box[depth[1]] * side,
    key: ({ box }) => Math.floor(((box[depth[0]] + box[depth[1]]) / 2 / BOX_UNITS) * side),
  };
};

