// Before the first paint: the theme that was chosen here, if one was.
try {
  const chosen = localStorage.getItem("offbeat-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // storage may be switched off: then the system's theme it is
}
