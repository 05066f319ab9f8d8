// Gradio's page hears of all its events through one stream, which the server closes after the last
// of them has ended. An event that begins at that moment is accepted while the page still believes
// the stream to be open, and nobody listens to it any more (gradio 6.31: `submit` in its client asks
// `stream_status.open` once, when the event was accepted). One more event opens the stream again,
// and what had waited arrives.
(() => {
  const real = window.fetch;
  let opened = 0, joined = 0;
  const nudge = () => document.querySelector('#nudge')?.click();
  window.fetch = async (...args) => {
    const path = String(args[0]?.url ?? args[0]);
    if (path.includes('/queue/data')) {
      const mine = (opened = performance.now());
      // Gradio ends it by this signal, whoever closed it.
      (args[1]?.signal ?? args[0].signal)?.addEventListener('abort', () => {
        const late = joined > mine && performance.now() - joined < 5000;
        if (late) setTimeout(() => opened === mine && nudge(), 20);
      });
    }
    const response = await real(...args);
    if (path.includes('/queue/join')) joined = performance.now();
    return response;
  };
})();
