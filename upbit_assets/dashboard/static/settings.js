// User settings, stored in the browser.

/** @param {string} name */
const stored = (name) => {
  try {
    return localStorage.getItem(name);
  } catch {
    return null; // storage is disabled
  }
};

/**
 * @template {string} T
 * @param {string} name @param {T[]} choices @param {T} byDefault
 */
export function setting(name, choices, byDefault) {
  let value = choices.find((choice) => choice === stored(name)) ?? byDefault;
  return {
    get: () => value,
    next() {
      value = choices[(choices.indexOf(value) + 1) % choices.length];
      try {
        localStorage.setItem(name, value);
      } catch {
        // not stored, but in effect until the page closes
      }
      return value;
    },
  };
}

const probe = document.body.appendChild(document.createElement("i"));
probe.hidden = true;

/** A colour of the style sheet in the current theme. @param {string} name */
export function colour(name) {
  probe.style.color = `var(--${name})`;
  return getComputedStyle(probe).color;
}
