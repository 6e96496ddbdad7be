// The radiologist's word on each finding, kept as a draft in this browser and saved as review.json.
class Review {
  constructor(root, report) {
    Object.assign(this, { root, report, words: report.words, key: `medvl-review-${report.report}` });
    this.part = (name) => root.querySelector(`[data-review="${name}"]`);
    this.rows = new Map([...root.querySelectorAll(".finding")].map((row) => [row.dataset.number, row]));
    this.draft = { reader: "", findings: {}, ...(this.stored() ?? report.review) };
    for (const element of root.querySelectorAll("[data-scripted]")) element.hidden = false;
    for (const [number, row] of this.rows) this.listen(number, row);
    this.part("copy")?.addEventListener("click", () => this.copy());
    this.part("save")?.addEventListener("click", () => this.save());
    this.part("reader")?.addEventListener("input", ({ target }) => {
      this.draft.reader = target.value;
      this.keep();
    });
    if (this.part("reader")) this.part("reader").value = this.draft.reader;
    this.count();
  }

  stored() {
    try {
      return JSON.parse(localStorage.getItem(this.key));
    } catch {
      return null; // no storage for this page, or not ours
    }
  }

  keep() {
    try {
      localStorage.setItem(this.key, JSON.stringify(this.draft));
    } catch {
      // what was typed still goes into the file that is saved
    }
  }

  listen(number, row) {
    const own = this.draft.findings[number] ?? {};
    const [observation, note] = ["observation", "note"].map((name) => row.querySelector(`[data-field="${name}"]`));
    const told = this.report.findings.find((finding) => String(finding.number) === number);
    observation.value = own.observation ?? told.observation;
    note.value = own.note ?? "";
    this.show(row, own);
    for (const field of [observation, note])
      field.addEventListener("input", () => this.change(number, row, { [field.dataset.field]: field.value }));
    row.querySelector("[data-field=status]").addEventListener("click", ({ target }) => {
      if (!target.value) return;
      const status = this.draft.findings[number]?.status === target.value ? undefined : target.value;
      this.change(number, row, { status });
      if (status === "edited") observation.focus();
    });
  }

  change(number, row, values) {
    this.draft.findings[number] = { ...this.draft.findings[number], ...values };
    this.show(row, this.draft.findings[number]);
    this.keep();
    this.count();
  }

  show(row, { status = "", observation, note }) {
    row.dataset.status = status;
    for (const button of row.querySelectorAll("[data-field=status] button"))
      button.setAttribute("aria-pressed", button.value === status);
    row.querySelector("[data-field=observation]").closest("label").hidden = status !== "edited";
    const said = [this.words[`judged.${status}`], status === "edited" && observation, note];
    row.querySelector("[data-judged]").textContent = said.filter(Boolean).join(": ");
  }

  get judged() {
    return Object.entries(this.draft.findings).filter(([number, { status }]) => status && this.rows.has(number));
  }

  count() {
    this.tell(fill(this.words.judged, { done: this.judged.length, all: this.rows.size }));
  }

  tell(text) {
    if (this.part("state")) this.part("state").textContent = text;
  }

  save() {
    const reader = this.draft.reader.trim();
    if (!reader) {
      this.part("reader").focus();
      return this.tell(this.words.reader_missing);
    }
    const findings = Object.fromEntries(this.judged.map(([number, { status, observation, note }]) => {
      const told = this.report.findings.find((finding) => String(finding.number) === number).observation;
      return [number, { status, observation: status === "edited" ? observation?.trim() || told : told, note: note ?? "" }];
    }));
    const { study_uid, report } = this.report, saved = new Date().toISOString();
    const content = { format: 1, study_uid, report, saved, reader, findings };
    const url = URL.createObjectURL(new Blob([JSON.stringify(content, null, 1)], { type: "application/json" }));
    make("a", { href: url, download: "review.json" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
    this.tell(this.words.saved);
  }

  text() {
    const lines = (selector) => [...this.root.querySelectorAll(selector)].map((each) => each.innerText.trim());
    const rows = [...this.rows].filter(([, row]) => row.dataset.status !== "rejected").map(([number, row]) => {
      const { status, observation, note } = this.draft.findings[number] ?? {};
      const said = row.querySelector("[data-copy=what]").innerText.trim();
      const facts = [...row.querySelectorAll("[data-copy=fact]")].map((each) => `${each.firstChild.textContent} ${each.lastChild.firstChild.textContent.trim()}`);
      return [`${number}. ${status === "edited" ? observation ?? said : said}`, ...facts, note].filter(Boolean).join("; ");
    });
    return [...lines("[data-copy=draft]"), "", ...lines("[data-copy=sentence]"), "", ...rows].join("\n");
  }

  async copy() {
    const text = this.text();
    try {
      await navigator.clipboard.writeText(text);
    } catch { // no clipboard for this page, or not allowed
      const field = make("textarea", { value: text });
      document.body.append(field);
      field.select();
      document.execCommand("copy");
      field.remove();
    }
    this.tell(this.words.copied);
  }
}

// Starts both for every study of the page.
const viewers = [];
for (const study of document.querySelectorAll(".study")) {
  const island = study.querySelector("script[type='application/json']");
  if (!island) continue;
  const report = JSON.parse(island.textContent);
  new Review(study, report);
  const root = study.querySelector(".viewer");
  if (!root || !report.galleries.length) continue;
  const viewer = new Viewer(root, report);
  viewers.push(viewer);
  study.addEventListener("click", (event) => {
    const link = event.target.closest("[data-shows]");
    if (!link || !viewer.showFinding(Number(link.dataset.shows)) || !link.hasAttribute("data-slice")) return;
    event.preventDefault(); // a link to a slice leads to the viewer; one to a finding to its row, too
    const screen = viewer.part("screen"), { top, bottom } = screen.getBoundingClientRect();
    if (top < 0 || bottom > innerHeight) root.scrollIntoView();
    screen.focus({ preventScroll: true });
  });
}
