"use strict";
// One sound at a time, and a line over its spectrogram where it is; a click there plays from that place.
const players = Array.from(document.querySelectorAll("figure.sound"), (figure) => ({
  audio: figure.querySelector("audio"),
  picture: figure.querySelector(".picture"),
  line: figure.querySelector(".playhead"),
}));
for (const { audio, picture, line } of players) {
  const { left, top, width, height, seconds } = picture.dataset;
  const length = Number(seconds);
  line.style.top = `${100 * Number(top)}%`;
  line.style.height = `${100 * Number(height)}%`;
  const show = () => {
    const share = Math.min(1, audio.currentTime / length);
    line.style.left = `${100 * (Number(left) + Number(width) * share)}%`;
    line.classList.toggle("on", audio.currentTime > 0);
    if (!audio.paused) requestAnimationFrame(show);
  };
  audio.addEventListener("play", () => {
    for (const other of players) if (other.audio !== audio) other.audio.pause();
    show();
  });
  audio.addEventListener("timeupdate", show);
  audio.addEventListener("seeked", show);
  picture.addEventListener("click", (event) => {
    const box = picture.getBoundingClientRect();
    const share = ((event.clientX - box.left) / box.width - Number(left)) / Number(width);
    if (share < 0 || share > 1) return;
    audio.currentTime = share * length;
    audio.play();
  });
}
