/** The mask editor: painted at the size of the display, written at the size of the picture. */
import {html, useEffect, useRef, useState} from '/studio/files/vendor/htm-preact.js';
import {Dialog, FileButton, IconButton} from '/studio/files/parts.js';
import {reference, server} from '/studio/files/server.js';

const LONGEST = 640;
const MOST_UNDO = 40;

/** Sizes: on the display, and of the file. */
function sizes(width, height) {
  const factor = LONGEST / Math.max(width, height);
  return {w: Math.round(width * factor), h: Math.round(height * factor)};
}

/** A soft or hard line between two points. */
function line(context, from, to, {size, hardness, isErasing}) {
  const colour = isErasing ? '0, 0, 0' : '255, 255, 255';
  const distance = Math.hypot(to.x - from.x, to.y - from.y);
  const steps = Math.max(1, Math.ceil(distance / Math.max(1, size / 8)));
  for (let i = 0; i <= steps; i += 1) {
    const [x, y] = [from.x + (to.x - from.x) * i / steps, from.y + (to.y - from.y) * i / steps];
    const fill = context.createRadialGradient(x, y, size / 2 * hardness, x, y, size / 2 + 0.5);
    fill.addColorStop(0, `rgba(${colour}, 1)`);
    fill.addColorStop(1, `rgba(${colour}, 0)`);
    context.fillStyle = fill;
    context.beginPath();
    context.arc(x, y, size / 2 + 0.5, 0, Math.PI * 2);
    context.fill();
  }
}

/** Black and white of what is drawn in grey, so that a mask says what was meant. */
async function file(canvas, width, height) {
  const out = document.createElement('canvas');
  Object.assign(out, {width, height});
  const context = out.getContext('2d');
  context.imageSmoothingQuality = 'high';
  context.drawImage(canvas, 0, 0, width, height);
  return new Promise((done) => { out.toBlob(done, 'image/png'); });
}

const load = (address) => new Promise((done, fail) => {
  const image = new Image();
  image.onload = () => done(image);
  image.onerror = () => fail(new Error('This file cannot be read as a picture.'));
  image.src = address;
});

/** The canvas' past and future. */
function useHistory(canvas) {
  const past = useRef({undo: [], redo: []});
  const [, again] = useState(0);
  const context = () => canvas.current.getContext('2d', {willReadFrequently: true});
  const now = () => context().getImageData(0, 0, canvas.current.width, canvas.current.height);
  const go = (from, to) => {
    if (!past.current[from].length) return;
    past.current[to].push(now());
    context().putImageData(past.current[from].pop(), 0, 0);
    again((n) => n + 1);
  };
  return {
    note: () => {
      past.current.undo.push(now());
      past.current.undo.splice(0, past.current.undo.length - MOST_UNDO);
      past.current.redo = [];
      again((n) => n + 1);
    },
    undo: () => go('undo', 'redo'), redo: () => go('redo', 'undo'), context,
    canUndo: past.current.undo.length > 0, canRedo: past.current.redo.length > 0,
  };
}

/**
 * The dialog.
 * @param {{title: string, about: string, width: number, height: number, mask: object|null,
 *   below: object|null, done: (mask: object) => void, close: () => void}} props
 */
export function MaskDialog({title, about, width, height, mask, below, done, close}) {
  const canvas = useRef(null);
  const last = useRef(null);
  const history = useHistory(canvas);
  const [brush, setBrush] = useState({size: 80, hardness: 0.7, isErasing: false});
  const [fault, setFault] = useState(null);
  const {w, h} = sizes(width, height);
  const put = (image) => {
    history.context().drawImage(image, 0, 0, w, h);
  };
  const fill = (colour) => {
    history.note();
    history.context().fillStyle = colour;
    history.context().fillRect(0, 0, w, h);
  };
  useEffect(() => {
    history.context().fillStyle = '#000';
    history.context().fillRect(0, 0, w, h);
    if (mask) load(reference(mask)).then(put, (error) => setFault(error.message));
  }, []);
  const invert = () => {
    history.note();
    const context = history.context();
    const data = context.getImageData(0, 0, w, h);
    for (let i = 0; i < data.data.length; i += 4) {
      for (let k = 0; k < 3; k += 1) data.data[i + k] = 255 - data.data[i + k];
    }
    context.putImageData(data, 0, 0);
  };
  const take = async (given) => {
    const address = URL.createObjectURL(given);
    try {
      const image = await load(address);
      history.note();
      put(image);
    } catch (error) {
      setFault(error.message);
    } finally {
      URL.revokeObjectURL(address);
    }
  };
  const place = (event) => {
    const box = canvas.current.getBoundingClientRect();
    return {x: (event.clientX - box.left) / box.width * w, y: (event.clientY - box.top) / box.height * h};
  };
  const down = (event) => {
    canvas.current.setPointerCapture?.(event.pointerId);
    history.note();
    last.current = place(event);
    line(history.context(), last.current, last.current, brush);
  };
  const move = (event) => {
    if (!last.current) return;
    for (const one of event.getCoalescedEvents?.() ?? [event]) {
      const next = place(one);
      line(history.context(), last.current, next, brush);
      last.current = next;
    }
  };
  const save = async () => {
    try {
      done(await server.put(await file(canvas.current, width, height)));
    } catch (error) {
      setFault(error.message);
    }
  };
  const size = (factor) => setBrush({...brush, size: Math.min(400, Math.max(4, Math.round(brush.size * factor)))});
  const key = (event) => {
    if (event.target.matches('input')) return;
    const isUndo = event.key.toLowerCase() === 'z';
    const acts = {'[': () => size(0.8), ']': () => size(1.25), b: () => setBrush({...brush, isErasing: false}),
      e: () => setBrush({...brush, isErasing: true})};
    if (isUndo) (event.shiftKey ? history.redo : history.undo)();
    else if (acts[event.key]) acts[event.key]();
    else return;
    event.preventDefault();
  };
  return html`<${Dialog} title=${title} close=${close} kind="wide"><div class="mask" onKeyDown=${key}>
    <p class="hint">${about} White acts, black does not.</p>
    <div class="tools"><div class="segments" role="group" aria-label="Tool">
        <button type="button" aria-pressed=${!brush.isErasing} onClick=${() => setBrush({...brush, isErasing: false})}>Brush</button>
        <button type="button" aria-pressed=${brush.isErasing} onClick=${() => setBrush({...brush, isErasing: true})}>Eraser</button></div>
      <label>Size <input type="range" min="4" max="400" value=${brush.size}
        onInput=${(event) => setBrush({...brush, size: Number(event.target.value)})} /></label>
      <label>Hardness <input type="range" min="0" max="0.98" step="0.02" value=${brush.hardness}
        onInput=${(event) => setBrush({...brush, hardness: Number(event.target.value)})} /></label>
      <${IconButton} of="undo" label="Undo" disabled=${!history.canUndo} onClick=${history.undo} />
      <${IconButton} of="redo" label="Redo" disabled=${!history.canRedo} onClick=${history.redo} />
      <button type="button" class="quiet" onClick=${() => fill('#fff')}>Fill</button>
      <button type="button" class="quiet" onClick=${() => fill('#000')}>Clear</button>
      <button type="button" class="quiet" onClick=${invert}>Invert</button>
      <${FileButton} label="Load" kind="quiet" take=${take} /></div>
    <div class="paper" tabindex="0" role="img" aria-label="The mask. Brackets change the brush, Z undoes.">
      ${below && html`<img class="below" src=${reference(below, 1024)} alt="" />`}
      <canvas ref=${canvas} width=${w} height=${h} onPointerDown=${down} onPointerMove=${move}
        onPointerUp=${() => { last.current = null; }} onPointerCancel=${() => { last.current = null; }}></canvas></div>
    ${fault && html`<p class="fault" role="alert">${fault}</p>`}
    <div class="actions end"><button type="button" onClick=${close}>Cancel</button>
      <button type="button" class="primary" onClick=${save}>Use this mask</button></div></div></${Dialog}>`;
}
