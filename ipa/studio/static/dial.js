/** Dial in: the same picture at several weights, how like its reference each is, and a choice. */
import {html, useEffect, useState} from '/studio/files/vendor/htm-preact.js';
import {KINDS, isActive, numbers, toJob} from '/studio/files/form.js';
import {Choice, Dialog, NumberField} from '/studio/files/parts.js';
import {made, server} from '/studio/files/server.js';

const AXES = {none: [null], seed: [0, 1], until: [0.5, 1]};
const NAMES = {none: 'nothing else', seed: 'two seeds', until: 'half and all of the steps'};

/** The weights that are tried: from none to a largest one. */
export const weights = (most, count) =>
  [...Array(count).keys()].map((i) => Math.round(most * i / (count - 1) * 100) / 100);

/** A form with a slot at a weight, and perhaps something else. */
export function cell(form, key, scale, axis, value) {
  const slots = form.slots.map((slot) => {
    if (slot.key !== key) return slot;
    const exact = {...numbers(slot), scale};
    if (axis === 'until') exact.end = Math.max(exact.start, value);
    return {...slot, on: true, exact};
  });
  return {...form, slots, count: 1, locked: true, influence: false,
    seed: axis === 'seed' ? form.seed + value : form.seed};
}

/** The dialog. */
export function DialDialog({form, slotKey, jobs, close, use}) {
  const slot = form.slots.find((one) => one.key === slotKey);
  const [most, setMost] = useState(1.2);
  const [count, setCount] = useState(5);
  const [axis, setAxis] = useState('none');
  const [cells, setCells] = useState([]);
  const [measured, setMeasured] = useState(null);
  const [fault, setFault] = useState(null);
  const byId = new Map(jobs.map((job) => [job.id, job]));
  const isOver = cells.length > 0 && cells.every(({id}) => byId.get(id)?.saved.length);
  const begin = async () => {
    setFault(null);
    setMeasured(null);
    const made = [];
    try {
      for (const value of AXES[axis]) {
        for (const scale of weights(most, count)) {
          const wanted = cell(form, slotKey, scale, axis, value);
          const {id} = await server.submit(toJob(wanted), wanted);
          made.push({id, scale, value, form: wanted});
        }
      }
    } catch (error) {
      setFault(error.message);
    }
    setCells(made);
  };
  useEffect(() => {
    if (!isOver) return;
    const active = form.slots.filter((one) => (isActive(one) || one.key === slotKey) && one.kind !== 'structure');
    const body = {job: toJob(cells[0].form), prompt: active.findIndex((one) => one.key === slotKey),
      names: cells.map(({id}) => byId.get(id).saved[0]), scales: cells.map(({scale}) => scale)};
    server.likeness(body).then(setMeasured, (error) => setFault(error.message));
  }, [isOver, cells]);
  const columns = weights(most, count).length;
  return html`<${Dialog} title="Dial in ${KINDS[slot.kind].name}" close=${close} kind="wide"><div class="dial">
    <p class="hint">The same picture at several weights. The mark is the smallest weight that brings 95 % of the likeness.</p>
    <div class="row"><${NumberField} label="Largest weight" value=${most} set=${setMost} low=${0.2} high=${3} step=${0.1} />
      <${NumberField} label="How many" value=${count} set=${(value) => setCount(Math.round(value))} low=${3} high=${7} />
      <${Choice} label="And" value=${NAMES[axis]} options=${Object.values(NAMES)}
        set=${(words) => setAxis(Object.keys(NAMES).find((one) => NAMES[one] === words))} />
      <button type="button" class="primary" onClick=${begin}>Try them</button></div>
    ${fault && html`<p class="fault" role="alert">${fault}</p>`}
    <div class="cells" style=${{gridTemplateColumns: `repeat(${columns}, minmax(0, 1fr))`}}>
      ${cells.map((one, i) => {
        const name = byId.get(one.id)?.saved[0];
        const like = measured?.likeness[i];
        const isEnough = measured?.enough === one.scale;
        return html`<button type="button" class="cell ${isEnough ? 'enough' : ''}" key=${one.id} disabled=${!name}
          aria-label="Use weight ${one.scale}${isEnough ? ', which is enough' : ''}" onClick=${() => use(one.form)}>
          ${name ? html`<img src=${made(name, 256)} alt="" />` : html`<span class="blank"></span>`}
          <span>${one.scale}${like !== undefined && like !== null ? html` <small>${like.toFixed(2)}</small>` : ''}</span></button>`;
      })}</div>
    ${measured && html`<p role="status">${measured.enough !== null
      ? `Weight ${measured.enough} is enough.` : `No weight is marked: ${measured.reason}.`}</p>`}
  </div></${Dialog}>`;
}
