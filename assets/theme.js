// The theme, before Gradio settles it: what this browser remembers stands in the address as Gradio
// reads it. The page's own load tells what the settings say (webui/settings_panel.py).
{
  const apply = (theme) => {
    const dark = theme === 'dark' || (theme !== 'light' && matchMedia('(prefers-color-scheme: dark)').matches);
    document.body?.classList.toggle('dark', dark);
  };
  let theme = localStorage.getItem('werkbank.theme') ?? 'system';
  window.werkbankTheme = (wanted) => {
    theme = wanted;
    localStorage.setItem('werkbank.theme', wanted);
    apply(wanted);
  };
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => setTimeout(() => apply(theme)));
  const url = new URL(location);
  if (theme !== 'system' && !url.searchParams.has('__theme')) {
    url.searchParams.set('__theme', theme);
    history.replaceState(null, '', url);
  }
}
