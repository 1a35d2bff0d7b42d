// What a person chose, kept in this browser.

/** @param {string} name */
const stored = (name) => {
  try {
    return localStorage.getItem(name);
  } catch {
    return null; // a browser that keeps nothing
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
        // it is still so until the page closes
      }
      return value;
    },
  };
}

const probe = document.body.appendChild(document.createElement("i"));
probe.hidden = true;

/** A colour of the style sheet, as the theme has it now. @param {string} name */
export function colour(name) {
  probe.style.color = `var(--${name})`;
  return getComputedStyle(probe).color;
}
