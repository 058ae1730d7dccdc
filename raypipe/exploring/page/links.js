// Link to other services, by position and by name. Nothing is loaded before the reader asks for it.
"use strict";

const ALADIN = "https://aladin.cds.unistra.fr/AladinLite/";
const SURVEYS = [["CSC", "cxc.harvard.edu/P/cda/hips/allsky/rgb"], ["DSS", "CDS/P/DSS2/color"]];
const FIELD_DEG = 0.1;

/** Return pages about a detection: [name, address, what it is]. */
function linksOut({ id, name, ra, dec }, packages) {
  const place = encodeURIComponent(`${ra.toFixed(6)} ${dec.toFixed(6)}`);
  const degrees = encodeURIComponent(`${ra.toFixed(6)}d ${dec.toFixed(6)}d`);
  const links = [
    ["SIMBAD", `https://simbad.cds.unistra.fr/simbad/sim-coo?Coord=${place}&Radius=5&Radius.unit=arcsec`, "objects within 5 arcsec"],
    ["NED", `https://ned.ipac.caltech.edu/conesearch?search_type=Near%20Position%20Search&coordinates=${degrees}&radius=0.1`, "objects within 6 arcsec"],
    ["ESASky", `https://sky.esa.int/esasky/?target=${place}&fov=${FIELD_DEG}`, "images of all wavelengths"],
  ];
  const parts = /:(\d+)\.(\d+)\.(\d+)$/.exec(id);
  if (!name?.startsWith("2CXO J")) return links;
  links.push(["CSC", `http://cda.cfa.harvard.edu/csc21scs/coneSearch?RA=${ra.toFixed(6)}&DEC=${dec.toFixed(6)}&SR=0.001&VERB=3`, "all properties in the Chandra Source Catalog, as VOTable"]);
  if (parts) {
    const number = parts.slice(1).map(Number).join(".");
    links.push(["spectrum (tar)", packages.replaceAll("0.0.0", number), "PHA, ARF and RMF from the Chandra archive"]);
  }
  return links;
}

/** Return the address of Aladin Lite at a position, deg, on a survey. */
function aladinAddress(ra, dec, survey) {
  const target = `${ra.toFixed(6)} ${dec.toFixed(6)}`;
  return `${ALADIN}?${new URLSearchParams({ target, fov: FIELD_DEG, survey })}`;
}

/** Show Aladin Lite in a frame that cannot read this page; the address is asked for only now. */
function openAladin(place, { ra, dec }, survey) {
  place.replaceChildren(
    element("iframe", {
      src: aladinAddress(ra, dec, survey), title: "Aladin Lite", sandbox: "allow-scripts allow-same-origin",
      referrerPolicy: "no-referrer",
    }),
  );
}
