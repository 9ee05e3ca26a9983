/** The form of a page: what it holds, what of it may be trusted, and the job that it becomes. */

/** @typedef {{sha256: string, width: number, height: number}} Picture */

const TABLE = {
  style: {name: 'Style', about: 'Colours, strokes, light', layers: 'style',
    stops: [[0.4, 0.2, 0.8], [0.8, 0.2, 1], [1.2, 0, 1]]},
  composition: {name: 'Composition', about: 'Where things are', layers: 'layout',
    stops: [[0.5, 0, 0.5], [0.8, 0, 0.8], [1, 0, 1]]},
  subject: {name: 'Subject', about: 'What is shown, whole', layers: null,
    stops: [[0.4, 0.2, 0.8], [0.8, 0.2, 0.8], [1, 0, 1]]},
  face: {name: 'Face', about: 'Whose face', layers: null,
    stops: [[0.5, 0.4, 0.9], [0.8, 0.2, 1], [1.2, 0.2, 1]]},
  structure: {name: 'Structure', about: 'Outlines to follow', layers: null,
    stops: [[0.7, 0, 0.5], [1, 0, 0.8], [1, 0, 1]]},
};

/** The kinds of slots: their names, and by thirds of the slider weight, start and end. */
export const KINDS = TABLE;

const VERSION = 1;
const HASH = /^[0-9a-f]{64}$/;
let keys = 0;

/** An empty slot of a kind. */
export const emptySlot = (kind) => ({
  key: `${kind}-${++keys}`, kind, picture: null, box: null, fit: 'center-crop', strength: 67,
  on: true, exact: null, layers: KINDS[kind].layers, curve: null, adapter: null, mask: null,
  outlines: kind === 'structure',
});

/** A new form. */
export const emptyForm = () => ({
  version: VERSION, prompt: '', negative: '', model: null, width: null, height: null, steps: null,
  sampler: null, guidance: null, seed: 1, locked: false, count: 1, influence: false,
  start: null, slots: Object.keys(KINDS).map(emptySlot),
});

/** Weight, start and end that a place of a slot's slider (0 to 100) means. */
export function preset(kind, strength) {
  const stops = KINDS[kind].stops;
  const table = [[0, ...stops[0].slice(1)], ...stops];
  const at = Math.max(0, Math.min(100, strength)) / 100 * 3;
  const low = Math.min(2, Math.floor(at));
  const part = at - low;
  const [scale, start, end] = table[low].map((from, i) => from + (table[low + 1][i] - from) * part);
  const round = (value) => Math.round(value * 100) / 100;
  return {scale: round(scale), start: round(start), end: round(end)};
}

/** The numbers that a slot stands for: exact ones, or its slider's. */
export const numbers = (slot) => slot.exact ?? preset(slot.kind, slot.strength);

/** Whether a slot takes part. */
export const isActive = (slot) => slot.on && slot.picture !== null;

/** The largest square in the middle of a picture, as fractions [left, top, right, bottom]. */
export function middle(picture) {
  const side = Math.min(picture.width, picture.height);
  const [w, h] = [side / picture.width, side / picture.height];
  return [(1 - w) / 2, (1 - h) / 2, (1 + w) / 2, (1 + h) / 2];
}

/** The job that a form asks for, as /api/v1/jobs takes it. */
export function toJob(form) {
  const request = {prompt: form.prompt, seed: form.seed, preview: 'latent'};
  if (form.negative) request.negative_prompt = form.negative;
  if (form.width) request.width = form.width;
  if (form.height) request.height = form.height;
  if (form.steps) request.num_inference_steps = form.steps;
  if (form.sampler) request.scheduler = form.sampler;
  if (form.guidance !== null) request.guidance_scale = form.guidance;
  if (form.count > 1) request.num_images = form.count;
  const active = form.slots.filter(isActive);
  const prompts = active.filter((slot) => slot.kind !== 'structure').map(promptOf);
  const controls = active.filter((slot) => slot.kind === 'structure').map(controlOf);
  if (prompts.length) request.image_prompts = prompts;
  if (prompts.length && form.influence) request.influence = true;
  if (controls.length) request.controls = controls;
  if (form.start) {
    request.image = named(form.start.picture);
    request.strength = form.start.strength;
    if (form.start.mask) request.mask_image = named(form.start.mask);
  }
  const job = {request};
  if (form.model) job.model = form.model;
  return job;
}

const named = (picture) => ({sha256: picture.sha256});

function promptOf(slot) {
  const {scale, start, end} = numbers(slot);
  const entry = {image: named(slot.picture), scale, start, end};
  entry.fit = slot.fit === 'center-crop' && slot.box ? slot.box : slot.fit;
  if (slot.layers) entry.layers = slot.layers;
  if (slot.curve) entry.curve = slot.curve;
  if (slot.adapter) entry.adapter = slot.adapter;
  if (slot.mask) Object.assign(entry, {mask: named(slot.mask), mask_fit: 'stretch'});
  return entry;
}

function controlOf(slot) {
  const {scale, start, end} = numbers(slot);
  const entry = {image: named(slot.control ?? slot.picture), scale, start, end};
  if (slot.adapter) entry.name = slot.adapter;
  return entry;
}

/** A form of a job that was not made here; of pictures only what `sizes` knows is taken. */
export function fromJob(job, sizes) {
  const request = job.request ?? {};
  const form = emptyForm();
  const raw = {
    ...form, prompt: request.prompt, negative: request.negative_prompt ?? '', model: job.model,
    width: request.width, height: request.height, steps: request.num_inference_steps,
    sampler: request.scheduler, guidance: request.guidance_scale, seed: request.seed, locked: true,
  };
  for (const entry of request.image_prompts ?? []) {
    for (const image of Array.isArray(entry.image) ? entry.image : [entry.image]) {
      const picture = sizes.get(image?.sha256);
      if (!picture) continue;
      const kind = {style: 'style', layout: 'composition'}[entry.layers] ?? 'subject';
      let slot = raw.slots.find((one) => one.kind === kind && !one.picture);
      if (!slot) raw.slots.push(slot = emptySlot(kind));
      Object.assign(slot, {
        picture, layers: typeof entry.layers === 'string' ? entry.layers : null,
        adapter: entry.adapter ?? null, curve: typeof entry.curve === 'string' ? entry.curve : null,
        box: Array.isArray(entry.fit) ? entry.fit : null,
        fit: typeof entry.fit === 'string' ? entry.fit : 'center-crop',
        exact: {scale: entry.scale ?? 1, start: entry.start ?? 0, end: entry.end ?? 1},
      });
    }
  }
  return readForm(raw);
}

const text = (value, most = 32000) => typeof value === 'string' ? value.slice(0, most) : '';
const name = (value) => typeof value === 'string' && value ? value.slice(0, 200) : null;

function number(value, low, high, otherwise = null) {
  const isGood = typeof value === 'number' && Number.isFinite(value);
  return isGood ? Math.min(high, Math.max(low, value)) : otherwise;
}

const whole = (value, low, high, otherwise = null) => {
  const found = number(value, low, high, otherwise);
  return found === null ? null : Math.round(found);
};

function picture(value) {
  if (!value || !HASH.test(value.sha256)) return null;
  const side = (one) => whole(one, 1, 1 << 16, 1);
  return {sha256: value.sha256, width: side(value.width), height: side(value.height)};
}

function box(value) {
  if (!Array.isArray(value) || value.length !== 4) return null;
  const edges = value.map((one) => number(one, 0, 1));
  const isBox = !edges.includes(null) && edges[0] < edges[2] && edges[1] < edges[3];
  return isBox ? edges : null;
}

function exact(value) {
  if (!value) return null;
  const start = number(value.start, 0, 1, 0);
  return {scale: number(value.scale, -3, 5, 1), start, end: number(value.end, start, 1, 1)};
}

function readSlot(value) {
  if (!value || !Object.hasOwn(KINDS, value.kind)) return null;
  const slot = emptySlot(value.kind);
  const fits = ['center-crop', 'squash', 'pad', 'tile', 'top', 'bottom', 'left', 'right'];
  return {
    ...slot, picture: picture(value.picture), box: box(value.box),
    fit: fits.includes(value.fit) ? value.fit : 'center-crop',
    strength: number(value.strength, 0, 100, 67), on: value.on !== false,
    exact: exact(value.exact), layers: name(value.layers), curve: name(value.curve),
    adapter: name(value.adapter), mask: picture(value.mask), control: picture(value.control),
    outlines: value.outlines === true,
  };
}

/** A form of anything: whatever does not fit is as in a new one. */
export function readForm(value) {
  if (!value || typeof value !== 'object' || value.version !== VERSION) return emptyForm();
  const slots = (Array.isArray(value.slots) ? value.slots.slice(0, 16) : []).map(readSlot);
  const kept = slots.filter((slot) => slot !== null);
  for (const kind of Object.keys(KINDS)) {
    if (!kept.some((slot) => slot.kind === kind)) kept.push(emptySlot(kind));
  }
  const first = value.start && picture(value.start.picture);
  return {
    version: VERSION, prompt: text(value.prompt), negative: text(value.negative),
    model: name(value.model), width: whole(value.width, 8, 4096), height: whole(value.height, 8, 4096),
    steps: whole(value.steps, 1, 1000), sampler: name(value.sampler),
    guidance: number(value.guidance, 0, 50), seed: whole(value.seed, 0, 2 ** 32 - 1, 1),
    locked: value.locked === true, count: whole(value.count, 1, 8, 1),
    influence: value.influence === true, slots: kept,
    start: first ? {picture: first, strength: number(value.start.strength, 0.01, 1, 0.7),
      mask: picture(value.start.mask)} : null,
  };
}
