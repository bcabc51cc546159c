"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const one = (selector) => document.querySelector(selector);

  // tables: a click on a heading sorts by it, a second one the other way round
  for (const table of all("table")) {
    all("th", table).forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of all("th", table)) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = (row) => {
        const cell = row.cells[column];
        if (cell.dataset.value === undefined) return cell.textContent;
        return cell.dataset.value === "" ? null : Number(cell.dataset.value);
      };
      const compare = (a, b) => {
        if (a === null || b === null) return (a === null) - (b === null); // what has no value stays last
        const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
        return up ? order : -order;
      };
      const body = table.tBodies[0];
      const rows = [...body.rows].map((row) => [key(row), row]).sort((a, b) => compare(a[0], b[0]));
      for (const [, row] of rows) body.append(row);
    }));
  }

  // code: copy
  for (const box of all(".code")) {
    const button = box.querySelector("button"), text = box.querySelector("pre");
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(text.textContent);
      } catch { // a browser that allows no clipboard for files
        const range = document.createRange();
        range.selectNodeContents(text);
        getSelection().removeAllRanges();
        getSelection().addRange(range);
        document.execCommand("copy");
      }
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
  }

  // pictures: the view, the outlines, and one of them large
  const buttons = all(".enlarge"), view = one("#view"), outlines = one("#outlines"), large = one("#large");
  const show = () => {
    for (const picture of all("svg[viewBox]")) {
      const views = all(".view", picture);
      const wanted = views.find((image) => view && image.dataset.view === view.value) || views[0];
      for (const image of views) image.classList.toggle("shown", image === wanted);
    }
    document.body.classList.toggle("plain", Boolean(outlines) && !outlines.checked);
  };
  show();
  if (view) view.addEventListener("change", show);
  if (outlines) outlines.addEventListener("change", show);

  let current = 0;
  const enlarge = (number) => {
    current = (number + buttons.length) % buttons.length;
    const copy = buttons[current].querySelector("svg").cloneNode(true);
    const [, , width, height] = copy.getAttribute("viewBox").split(" ").map(Number);
    const scale = Math.min(innerWidth * 0.92 / width, innerHeight * 0.76 / height);
    copy.style.width = `${width * scale}px`;
    copy.style.height = `${height * scale}px`;
    one("#frame").replaceChildren(copy);
    const caption = buttons[current].closest("figure").querySelector("figcaption").cloneNode(true);
    for (const part of all("label, fieldset", caption)) part.remove();
    const heading = buttons[current].closest(".column").querySelector("h4").textContent;
    one("#legend").textContent = `${heading ? `${heading} · ` : ""}${caption.textContent.trim().replace(/\s+/g, " ")} (${current + 1} of ${buttons.length})`;
    if (!large.open) large.showModal();
  };
  buttons.forEach((button, number) => button.addEventListener("click", () => enlarge(number)));
  if (large) {
    one("#previous").addEventListener("click", () => enlarge(current - 1));
    one("#next").addEventListener("click", () => enlarge(current + 1));
    one("#close").addEventListener("click", () => large.close());
    large.addEventListener("close", () => buttons[current].focus());
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) && !/^(checkbox|radio)$/.test(event.target.type)) return;
      const key = event.key.toLowerCase();
      if (large.open && key === "arrowleft") enlarge(current - 1);
      else if (large.open && key === "arrowright") enlarge(current + 1);
      else if (key === "w" && view) { view.selectedIndex = (view.selectedIndex + 1) % view.options.length; show(); }
      else if (key === "c") { outlines.checked = !outlines.checked; show(); }
      else return;
      event.preventDefault();
    });
  }

  const save = (name, lines) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "text/csv" }));
    link.download = name;
    link.click();
  };

  // a reader's answers
  const answers = all(".answer"), answered = one("#answered");
  const chosen = () => answers.filter((radio) => radio.checked);
  for (const radio of answers) {
    radio.addEventListener("change", () => {
      const asked = new Set(answers.map((other) => other.name)).size;
      answered.textContent = `${chosen().length} of ${asked} pictures have an answer.`;
    });
  }
  if (answered) {
    one("#save-answers").addEventListener("click", () => {
      save("answers.csv", ["picture,answer", ...chosen().map((radio) => `${radio.name},${radio.value}`)]);
    });
  }

  // cases that a reader excludes
  const boxes = all(".exclude"), list = one("#excluded");
  const excluded = () => [...new Set(boxes.filter((box) => box.checked).map((box) => box.value))];
  for (const box of boxes) {
    box.addEventListener("change", () => {
      for (const other of boxes) if (other.value === box.value) other.checked = box.checked;
      list.textContent = excluded().join(", ") || "No case is excluded.";
    });
  }
  if (list) {
    one("#save").addEventListener("click", () => save("exclude.csv", ["case", ...excluded()]));
  }
})();
