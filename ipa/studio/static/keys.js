/** The keys of the studio, and the page that lists them. */
import {html, useEffect, useRef} from '/studio/files/vendor/htm-preact.js';
import {Dialog} from '/studio/files/parts.js';

const KEYS = [
  ['Ctrl or ⌘ + Enter', 'Generate, or add to the queue'], ['Esc', 'Stop'], ['/', 'To the words'],
  ['1 – 5', 'To a slot'], ['Arrows, + and −', 'In a square: move and zoom the crop'],
  ['Enter', 'Look at the picture that is shown'], ['← →', 'Newer and older pictures'],
  ['R, S', 'In a picture: use its settings, save it'], ['[ ] B E Z', 'In a mask: brush, eraser, undo'],
  ['Ctrl or ⌘ + Z', 'Take back the last change'], ['?', 'This list'],
];

/** Act on keys, unless something is being typed or a dialog is open. */
export function useKeys(acts) {
  const now = useRef(acts);
  now.current = acts;
  useEffect(() => {
    const key = (event) => {
      const {generate, stop, undo, help, isOpen} = now.current;
      const isTyping = event.target.matches?.('input:not([type=range]):not([type=checkbox]), textarea, select');
      const isCommand = event.ctrlKey || event.metaKey;
      const act = (work) => { event.preventDefault(); work(); };
      if (isOpen) return;
      if (isCommand && event.key === 'Enter') act(generate);
      else if (event.key === 'Escape') act(stop);
      else if (isTyping) return;
      else if (isCommand && event.key.toLowerCase() === 'z') act(undo);
      else if (isCommand || event.altKey) return;
      else if (event.key === '/') act(() => document.getElementById('prompt').focus());
      else if (event.key === '?') act(help);
      else if (/^[1-5]$/.test(event.key)) act(() => document.querySelectorAll('.slot')[event.key - 1]?.focus());
    };
    document.addEventListener('keydown', key);
    return () => document.removeEventListener('keydown', key);
  }, []);
}

/** The list of keys, and where more is told. */
export const HelpDialog = ({close}) => html`<${Dialog} title="Keys and help" close=${close}>
  <table class="keys"><tbody>${KEYS.map(([keys, words]) => html`<tr><th scope="row"><kbd>${keys}</kbd></th><td>${words}</td></tr>`)}
  </tbody></table>
  <p class="hint">Drop a picture on a slot to use it, or anywhere else to bring back the settings that made it.
    Programs use this server too: <a href="/openapi.json">its routes</a>.</p></${Dialog}>`;
