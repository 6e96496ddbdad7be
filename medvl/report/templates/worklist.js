// The list of all studies: search, status and order. Each row's text is read once.
"use strict";
const table = document.querySelector(".worklist");
if (table) {
  const body = table.tBodies[0], [search, status, state] = ["search", "status", "state"].map((name) =>
    document.querySelector(`[data-list="${name}"]`));
  const rows = [...body.rows].map((row) => ({
    row, text: row.textContent.toLowerCase(), status: row.dataset.status, cells: [...row.cells].map((cell) => cell.innerText),
  }));
  const collator = new Intl.Collator(document.documentElement.lang, { numeric: true });

  const show = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const { row, text, status: own } of rows) {
      row.hidden = (status.value && status.value !== own) || !words.every((word) => text.includes(word));
      count += !row.hidden;
    }
    state.textContent = state.dataset.words.replace("{n}", count).replace("{all}", rows.length);
  };

  const sort = (header) => {
    const down = header.getAttribute("aria-sort") === "ascending", column = header.cellIndex;
    for (const other of header.parentElement.cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", down ? "descending" : "ascending");
    rows.sort((one, other) => collator.compare(one.cells[column], other.cells[column]) * (down ? -1 : 1));
    body.append(...rows.map(({ row }) => row));
  };

  for (const button of table.querySelectorAll("thead button")) {
    button.disabled = false;
    button.addEventListener("click", () => sort(button.closest("th")));
  }
  document.querySelector("[data-scripted]").hidden = false;
  search.addEventListener("input", show);
  status.addEventListener("change", show);
  show();
}
