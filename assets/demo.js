() => {
  // Says how much is left, and sees the end of the demo. Asks only while the page can be seen.
  const left = () => document.getElementById('demo-left');
  const span = (seconds) => seconds >= 5400 ? `${Math.round(seconds / 3600)} h` : seconds >= 90 ? `${Math.round(seconds / 60)} min` : `${seconds} s`;
  let missed = 0, over = false, asking = false, timer = 0;
  const cover = (title, text) => {
    let veil = document.getElementById('demo-over');
    if (!veil) {
      veil = document.createElement('div');
      veil.id = 'demo-over';
      veil.setAttribute('role', 'alert');
      veil.append(document.createElement('h1'), document.createElement('p'));
      document.body.append(veil);
    }
    veil.children[0].textContent = title;
    veil.children[1].textContent = text;
  };
  const ask = async () => {
    clearTimeout(timer);
    if (over || asking || document.hidden) return;
    asking = true;
    try {
      const answer = await fetch('alive', { cache: 'no-store', signal: AbortSignal.timeout(5000) });
      if (answer.status === 410) {
        over = true;
        return cover('This demo has ended.', 'Its owner has closed it, or its time was over. What was written here has not been kept.');
      }
      if (answer.status === 401) return location.reload();
      if (!answer.ok) throw new Error(answer.status);
      const state = await answer.json();
      if (missed) document.getElementById('demo-over')?.remove();
      missed = 0;
      if (left()) left().textContent = `${state.left} of ${state.messages} messages left · ends in ${span(state.seconds)}`;
    } catch (problem) {
      if (++missed > 1) cover('This demo cannot be reached.', 'It has ended, or the connection is broken. It is tried again.');
    }
    asking = false;
    timer = setTimeout(ask, missed === 1 ? 200 : missed ? 3000 : 500);
  };
  document.addEventListener('visibilitychange', ask);
  ask();
}
