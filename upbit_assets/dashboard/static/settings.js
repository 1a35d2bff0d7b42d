// What a person chose, kept in this browser.

const stored = (name) => {
  try {
    return localStorage.getItem(name);
  } catch {
    return null; // a browser that keeps nothing
  }
};

export function setting(name, choices, usual) {
  const kept = stored(name);
  let value = choices.includes(kept) ? kept : usual;
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

/** A colour of the style sheet, as the theme has it now. */
export function colour(name) {
  probe.style.color = `var(--${name})`;
  return getComputedStyle(probe).color;
}
