/** The square of a picture that the image encoder sees: dragged, zoomed, and shown as it is. */
import {html, useEffect, useRef, useState} from '/studio/files/vendor/htm-preact.js';
import {KINDS, middle} from '/studio/files/form.js';
import {reference} from '/studio/files/server.js';

const STEP = 0.04;
const ZOOM = 1.08;
const SMALLEST = 0.08; // of the shorter side
const WAIT_MS = 350;

/** A square box of a picture, moved by fractions of the picture and zoomed, inside it. */
export function moved(picture, box, dx, dy, zoom = 1) {
  const [left, top, right, bottom] = box ?? middle(picture);
  const shorter = Math.min(picture.width, picture.height);
  const now = (right - left) * picture.width;
  const side = Math.min(shorter, Math.max(shorter * SMALLEST, now / zoom));
  const [w, h] = [side / picture.width, side / picture.height];
  const place = (centre, size) => Math.min(1 - size, Math.max(0, centre - size / 2));
  const x = place((left + right) / 2 + dx, w);
  const y = place((top + bottom) / 2 + dy, h);
  const round = (value) => Math.round(value * 1e4) / 1e4;
  return [round(x), round(y), Math.min(1, round(x + w)), Math.min(1, round(y + h))];
}

/** How a whole picture lies behind a square that shows a box of it. */
function behind(slot) {
  if (slot.fit === 'squash') return {width: '100%', height: '100%', left: 0, top: 0};
  const {width, height} = slot.picture;
  if (slot.fit === 'pad' || slot.fit === 'tile' || slot.kind === 'structure') {
    const long = Math.max(width, height);
    const [w, h] = [width / long * 100, height / long * 100];
    return {width: `${w}%`, height: `${h}%`, left: `${(100 - w) / 2}%`, top: `${(100 - h) / 2}%`};
  }
  const [left, top, right, bottom] = slot.box ?? middle(slot.picture);
  const [w, h] = [100 / (right - left), 100 / (bottom - top)];
  return {width: `${w}%`, height: `${h}%`, left: `${-left * w}%`, top: `${-top * h}%`};
}

const KEYS = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};

/** The square; `see` asks the server what the encoder sees, when nothing else is done. */
export function Square({slot, change, see}) {
  const from = useRef(null);
  const [view, setView] = useState(null);
  const canMove = slot.fit === 'center-crop' && slot.kind !== 'structure';
  const what = JSON.stringify([slot.picture.sha256, slot.box, slot.fit, slot.adapter]);
  useEffect(() => {
    setView(null);
    if (slot.kind === 'structure') return undefined;
    let isOld = false;
    const clock = setTimeout(async () => {
      const found = await see(slot);
      if (!isOld && found) setView(`data:image/png;base64,${found}`);
    }, WAIT_MS);
    return () => { isOld = true; clearTimeout(clock); };
  }, [what, see]);
  const shift = (dx, dy, zoom) => change({box: moved(slot.picture, slot.box, dx, dy, zoom)});
  const down = (event) => {
    if (!canMove) return;
    event.target.setPointerCapture?.(event.pointerId);
    from.current = {x: event.clientX, y: event.clientY, box: slot.box ?? middle(slot.picture)};
  };
  const move = (event) => {
    if (!from.current) return;
    const {x, y, box} = from.current;
    const side = event.currentTarget.clientWidth;
    const dx = (x - event.clientX) / side * (box[2] - box[0]);
    const dy = (y - event.clientY) / side * (box[3] - box[1]);
    change({box: moved(slot.picture, box, dx, dy)});
  };
  const key = (event) => {
    const way = KEYS[event.key];
    const zoom = {'+': ZOOM, '=': ZOOM, '-': 1 / ZOOM}[event.key];
    if (!canMove || (!way && !zoom)) return;
    event.preventDefault();
    shift((way?.[0] ?? 0) * STEP, (way?.[1] ?? 0) * STEP, zoom);
  };
  const {name} = KINDS[slot.kind];
  const help = canMove ? 'Arrows move the crop, plus and minus zoom.' : '';
  const shown = slot.kind === 'structure' && slot.control ? slot.control : slot.picture;
  return html`<div class="square ${canMove ? 'movable' : ''}" tabindex="0" role="group"
    aria-label="${name}: what the encoder sees. ${help}" data-view=${view ? 'encoder' : 'page'}
    title=${canMove ? 'What the encoder sees. Drag to move, wheel or + and − to zoom.' : 'What the encoder sees'}
    onPointerDown=${down} onPointerMove=${move} onPointerUp=${() => { from.current = null; }}
    onPointerCancel=${() => { from.current = null; }} onKeyDown=${key}
    onDblClick=${() => canMove && change({box: null})}
    onWheel=${(event) => { if (canMove) { event.preventDefault(); shift(0, 0, event.deltaY < 0 ? ZOOM : 1 / ZOOM); } }}>
    <img src=${reference(shown, 640)} alt="" draggable=${false} style=${behind(slot)} />
    ${view && html`<img class="truth" src=${view} alt="" draggable=${false} />`}
  </div>`;
}
