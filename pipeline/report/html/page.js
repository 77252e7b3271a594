(function () {
  function open() {
    var target = location.hash && document.getElementById(location.hash.slice(1));
    if (target && target.tagName === "DETAILS") target.open = true;
  }
  window.addEventListener("hashchange", open);
  open();
  var bar = document.getElementById("filter"), pick = document.getElementById("filter-language");
  if (!bar) return;
  var prompts = document.querySelectorAll("details.prompt");
  bar.hidden = false;
  pick.addEventListener("change", function () {
    prompts.forEach(function (p) { p.hidden = pick.value !== "" && p.dataset.language !== pick.value; });
  });
})();
