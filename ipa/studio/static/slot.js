/** A slot: a picture, the square that the encoder sees of it, and how strongly it acts. */
import {html, useEffect, useRef, useState} from '/studio/files/vendor/htm-preact.js';
import {KINDS, isActive, numbers, preset} from '/studio/files/form.js';
import {Square} from '/studio/files/square.js';
import {Choice, FileButton, IconButton, NumberField, dropped} from '/studio/files/parts.js';

const FITS = {
  'center-crop': 'Crop (drag the square)', squash: 'Squash all of it', pad: 'All of it, on black',
  tile: 'Several squares',
};
const CURVES = ['fade_out', 'fade_in', 'ease_in', 'ease_out'];
const WORDS = ['off', 'a little', 'clearly', 'strongly'];

/** How strongly, in a word. */
const word = (strength) => WORDS[Math.round(strength / 100 * 3)];

/** A slot with nothing in it. */
function Empty({slot, bring}) {
  const {name, about} = KINDS[slot.kind];
  return html`<div class="empty"><div><strong>${name}</strong><span>${about}</span></div>
    <${FileButton} label="Choose" kind="quiet" take=${(file) => bring({file})} /></div>`;
}

function Strength({slot, change}) {
  const {scale} = numbers(slot);
  const at = slot.exact ? Math.round(Math.min(1.2, Math.max(0, scale)) / 1.2 * 100) : slot.strength;
  const {name} = KINDS[slot.kind];
  return html`<div class="strength">
    <input type="range" min="0" max="100" value=${at} aria-label="${name}: how strongly"
      aria-valuetext=${slot.exact ? `weight ${scale}` : word(slot.strength)}
      onInput=${(event) => change({strength: Number(event.target.value), exact: null})} />
    <output>${slot.exact ? scale : `${word(slot.strength)} · ${scale}`}</output>
  </div>`;
}

function More({slot, change, offered, paint, dial}) {
  const exact = numbers(slot);
  const put = (field) => (value) => change({exact: {...exact, [field]: value}});
  const isStructure = slot.kind === 'structure';
  const parts = isStructure ? offered.controlnets : offered.adapters;
  return html`<div class="more">
    <div class="row">
      <${NumberField} label="Weight" value=${exact.scale} set=${put('scale')} low=${-3} high=${5} step=${0.05} />
      <${NumberField} label="From" value=${exact.start} set=${put('start')} low=${0} high=${exact.end} step=${0.05} />
      <${NumberField} label="Until" value=${exact.end} set=${put('end')} low=${exact.start} high=${1} step=${0.05} />
    </div>
    ${slot.exact && html`<button type="button" class="link"
      onClick=${() => change({exact: null})}>Back to the slider's ${preset(slot.kind, slot.strength).scale}</button>`}
    ${!isStructure && html`<div class="row">
      <${Choice} label="Layers" value=${slot.layers} first="all" options=${offered.layers}
        set=${(layers) => change({layers})} />
      <${Choice} label="Over the steps" value=${slot.curve} first="steady" options=${CURVES}
        set=${(curve) => change({curve})} />
    </div>
    <div class="row">
      <label class="field"><span>Square</span><select value=${slot.fit}
        onChange=${(event) => change({fit: event.target.value, box: null})}>
        ${Object.entries(FITS).map(([key, words]) => html`<option value=${key}>${words}</option>`)}
      </select></label></div>`}
    <div class="row">
      <${Choice} label=${isStructure ? 'ControlNet' : 'Adapter'} value=${slot.adapter}
        first=${parts[0] ?? 'none'} options=${parts.slice(1)} set=${(adapter) => change({adapter})} /></div>
    ${!isStructure && html`<div class="row buttons">
      <button type="button" class="quiet" onClick=${paint}>${slot.mask ? 'Change the mask' : 'Paint where it acts'}</button>
      ${slot.mask && html`<button type="button" class="quiet" onClick=${() => change({mask: null})}>Everywhere</button>`}
      <button type="button" class="quiet" onClick=${dial}>Dial in</button></div>`}
  </div>`;
}

/**
 * One slot.
 * @param {{slot: object, change: (patch: object) => void, remove: () => void, bring: Function,
 *   offered: object, paint: Function, dial: Function, see: Function, fault: string|null}} props
 */
export function Slot({slot, change, remove, bring, offered, paint, dial, see, fault}) {
  const [isOver, setOver] = useState(false);
  const [isOpen, setOpen] = useState(false);
  const at = useRef(null);
  const {name} = KINDS[slot.kind];
  const drop = (event) => {
    const what = dropped(event);
    setOver(false);
    if (!what) return;
    event.preventDefault();
    event.stopPropagation();
    bring(what);
  };
  const over = (event) => {
    event.preventDefault();
    setOver(true);
  };
  useEffect(() => {
    if (!isOpen) return undefined;
    at.current?.querySelector('.more input')?.focus();
    return undefined;
  }, [isOpen]);
  const kind = `slot ${slot.picture ? '' : 'is-empty'} ${isOver ? 'over' : ''} ${slot.picture && !isActive(slot) ? 'off' : ''}`;
  return html`<section ref=${at} class=${kind} data-kind=${slot.kind} tabindex="-1"
    aria-label="${name} picture" onDragOver=${over} onDragLeave=${() => setOver(false)} onDrop=${drop}>
    ${!slot.picture ? html`<${Empty} slot=${slot} bring=${bring} />` : html`
    <div class="filled"><${Square} slot=${slot} change=${change} see=${see} />
      <div class="beside">
        <div class="head"><strong>${name}</strong>
          <label class="switch"><input type="checkbox" checked=${slot.on}
            onChange=${(event) => change({on: event.target.checked})} /><span>On</span></label>
          <${IconButton} of="more" label="${name}: exact values" aria-expanded=${isOpen}
            onClick=${() => setOpen(!isOpen)} />
          <${IconButton} of="close" label="${name}: take the picture out" onClick=${remove} /></div>
        <${Strength} slot=${slot} change=${change} />
        <p class="seen">${unseen(slot)}</p>
      </div></div>
    ${isOpen && html`<${More} ...${{slot, change, offered, paint, dial}} />`}`}
    ${fault && html`<p class="fault" role="alert">${fault}</p>`}
  </section>`;
}

/** What of a picture the encoder does not see, in words. */
export function unseen(slot) {
  if (slot.kind === 'structure') return slot.outlines ? 'Its outlines are followed.' : 'Followed as it is.';
  const {width, height} = slot.picture;
  if (slot.fit !== 'center-crop' || (width === height && !slot.box)) return 'All of it is seen.';
  const side = Math.min(width, height);
  const [w, h] = [side / width, side / height];
  const [left, top, right, bottom] = slot.box ?? [(1 - w) / 2, (1 - h) / 2, (1 + w) / 2, (1 + h) / 2];
  const cut = {left, top, right: 1 - right, bottom: 1 - bottom};
  const parts = Object.entries(cut).filter(([, part]) => part > 0.015)
    .map(([where, part]) => `${where} ${Math.round(part * 100)} %`);
  return parts.length ? `Not seen: ${parts.join(', ')}.` : 'All of it is seen.';
}
