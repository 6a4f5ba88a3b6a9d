// Runs before the first paint, so that a chosen theme doesn't flash; a classic script, since modules run later.
"use strict";
try {
  const theme = localStorage.getItem("vlm-serve.theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // storage is forbidden: the system's theme is shown
}
