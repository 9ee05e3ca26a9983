"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const [PHASE, PATH, SHAPE, BAD, SKETCHED, NUMBERS] = [0, 1, 2, 3, 4, 5];
  const column = (row, key) => row[NUMBERS + data.columns.indexOf(key)];
  const digits = (key) => data.digits[data.columns.indexOf(key)];
  const path = (row) => data.paths[row[PATH]][0];
  const stage = (row) => data.phases[row[PHASE]] + "/" + path(row);
  const explained = (row) => data.paths[row[PATH]][1];

  // What is not finite comes as a string.
  const valued = (value) => {
    if (value === null) return -Infinity;
    return typeof value === "string" ? { inf: Infinity, nan: Infinity }[value] ?? -Infinity : value;
  };
  const shown = (value, digits = 3) => {
    if (value === null) return "–";
    if (typeof value === "string") return value;
    const size = Math.abs(value);
    if (size !== 0 && (size < 1e-4 || size >= 1e5)) {
      return value.toExponential(digits - 1).replace(/\.?0+e/, "e").replace("e+", "e");
    }
    return String(Number(value.toPrecision(digits)));
  };
  const make = (tag, attributes = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  };
  const by = (id) => document.getElementById(id);
  document.querySelectorAll(".script").forEach((one) => { one.hidden = false; });

  const copy = async (text, status) => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = make("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    status.textContent = "Copied.";
  };
  by("copy-issue").addEventListener("click", () => copy(by("issue").value, by("copied")));
  if (!data.rows.length) return;

  // A bar tells its stage also to a finger.
  const chart = document.querySelector(".flow");
  const tell = (event) => {
    const title = event.target.closest("g")?.querySelector("title");
    if (title) by("told").textContent = title.textContent;
  };
  chart.addEventListener("pointermove", tell);
  chart.addEventListener("click", tell);

  // The waterfall: what is in a phase is made when it is first opened.
  const tree = by("tree");
  const low = Number(tree.dataset.low), high = Number(tree.dataset.high);
  const share = (value) => {
    const number = valued(value);
    if (number === Infinity) return 100;
    return number > 0 ? 100 * Math.min(1, Math.max(0, (Math.log10(number) - low) / (high - low))) : 0;
  };
  const drawn = (tag, attributes, ...children) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  };
  const severity = (row) => {
    const error = column(row, "relative_l2");
    return typeof error === "string" ? Infinity : row[BAD] * 1e9 + error / (column(row, "limit") || 1);
  };
  const worstOf = (rows) => rows.reduce((a, b) => (severity(b) > severity(a) ? b : a));
  const bar = (row) => {
    const marks = ["limit", "floor"]
      .filter((key) => column(row, key) !== null)
      .map((key) => drawn("path", { d: `M${share(column(row, key))} 0v10`, class: key }));
    const width = Math.max(0.5, share(column(row, "relative_l2")));
    const box = { class: "bar", viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" };
    const ratio = column(row, "ratio");
    return [
      drawn("svg", box, drawn("rect", { width, height: 10 }), ...marks),
      make("span", {}, shown(column(row, "relative_l2"), 2)),
      make("span", {}, ratio === null ? "" : `${shown(ratio, 2)} × floor`),
    ];
  };
  const BLOCK = 2, LAYER = 3;
  const groups = (rows, level) => {
    const found = new Map();
    rows.forEach((row, at) => {
      const names = data.paths[row[PATH]];
      const key = level <= LAYER && names[level] ? names[level] : at;
      if (!found.has(key)) found.set(key, []);
      found.get(key).push(row);
    });
    return found;
  };
  const branch = (rows, level, above) => [...groups(rows, level)].map(([key, members]) => {
    if (members.length === 1) {
      const rest = path(members[0]).slice(above.length).replace(/^\./, "") || "(its result)";
      const name = make("span", { title: explained(members[0]) }, rest);
      return make("div", { class: members[0][BAD] ? "leaf bad" : "leaf" }, name, ...bar(members[0]));
    }
    const bad = members.filter((row) => row[BAD]).length;
    const count = ` ${members.length} stages${bad ? `, ${bad} bad` : ""}`;
    const label = make("span", {}, key.slice(above.length).replace(/^\./, ""), make("small", {}, count));
    const summary = make("summary", bad ? { class: "bad" } : {}, label, ...bar(worstOf(members)));
    return make("details", {}, summary, ...branch(members, level + 1, key));
  });
  tree.querySelectorAll("details[data-phase]").forEach((one) => {
    one.addEventListener("toggle", () => {
      const phase = data.phases.indexOf(one.dataset.phase);
      one.append(...branch(data.rows.filter((row) => row[PHASE] === phase), BLOCK, ""));
    }, { once: true });
  });

  // The table of all stages.
  const table = by("stages"), body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  const keys = heads.map((head) => head.firstElementChild.dataset.key);
  const PAGE = 200;
  const state = { key: "stage", down: false, most: PAGE };
  const order = new Map(data.rows.map((row, at) => [row, at]));
  const sortable = (row) => {
    if (state.key === "stage") return order.get(row);
    return state.key === "shape" ? row[SHAPE] : valued(column(row, state.key));
  };
  const chosen = () => {
    const words = by("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    const onlyBad = by("only-bad").checked;
    const rows = data.rows.filter((row) => {
      if (onlyBad && !row[BAD]) return false;
      const text = `${stage(row)} ${explained(row)}`.toLowerCase();
      return words.every((word) => text.includes(word));
    });
    const sign = state.down ? -1 : 1;
    return rows.sort((a, b) => {
      const one = sortable(a), other = sortable(b);
      return one === other ? order.get(a) - order.get(b) : one < other ? -sign : sign;
    });
  };
  const cells = (row) => keys.slice(1).map((key) => {
    if (key === "shape") return data.shapes[row[SHAPE]];
    return (row[SKETCHED] && key === "relative_l2" ? "≈ " : "") + shown(column(row, key), digits(key));
  });
  const line = (row) => make(
    "tr", row[BAD] ? { class: "bad" } : {},
    make("th", { scope: "row" }, (row[BAD] ? "✗ bad: " : "") + stage(row), make("small", {}, explained(row))),
    ...cells(row).map((text) => make("td", {}, text)),
  );
  const update = () => {
    const rows = chosen();
    body.replaceChildren(...rows.slice(0, state.most).map(line));
    const all = data.rows.length, here = Math.min(rows.length, state.most);
    by("count").textContent = `${rows.length} of ${all} stages` + (here < rows.length ? `, ${here} shown` : "");
    by("more").hidden = here === rows.length;
    heads.forEach((head, at) => {
      if (keys[at] !== state.key) head.removeAttribute("aria-sort");
      else head.setAttribute("aria-sort", state.down ? "descending" : "ascending");
    });
  };
  heads.forEach((head, at) => head.firstElementChild.addEventListener("click", () => {
    const again = state.key === keys[at];
    // Of a number the largest are asked for first.
    state.down = again ? !state.down : keys[at] !== "stage";
    state.key = keys[at];
    update();
  }));
  for (const [id, event] of [["filter", "input"], ["only-bad", "change"]]) {
    by(id).addEventListener(event, () => { state.most = PAGE; update(); });
  }
  by("more").addEventListener("click", () => { state.most += PAGE; update(); });
  by("copy-rows").addEventListener("click", () => {
    const titles = heads.map((head) => head.textContent);
    const lines = chosen().slice(0, state.most).map((row) => [stage(row), ...cells(row)]);
    const text = [titles, titles.map(() => "---"), ...lines]
      .map((parts) => `| ${parts.map((part) => part.replaceAll("|", "\\|")).join(" | ")} |`);
    copy(text.join("\n") + "\n", by("count"));
  });
  update();
})();
