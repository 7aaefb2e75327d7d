// This runs before the page is drawn, so that a chosen theme does not flash. It is no module, because modules run later.
{
  const { documentElement: root } = document;
  const KEY = 'headscale-watchdog theme';

  /** @param {string} theme `light`, `dark`, or empty for the system's */
  const apply = (theme) => {
    if (theme === 'light' || theme === 'dark') root.dataset.theme = theme;
    else delete root.dataset.theme;
  };

  // A browser may forbid storage.
  const stored = () => {
    try {
      return localStorage.getItem(KEY) ?? '';
    } catch {
      return '';
    }
  };
  apply(stored());
  addEventListener('DOMContentLoaded', () => {
    const select = document.getElementById('theme');
    if (!(select instanceof HTMLSelectElement)) return;
    select.value = root.dataset.theme ?? '';
    select.addEventListener('change', () => {
      apply(select.value);
      try {
        localStorage.setItem(KEY, select.value);
      } catch {
        // The theme then lasts until the page is loaded again.
      }
    });
  });
}
