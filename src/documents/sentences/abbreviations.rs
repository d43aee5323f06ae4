//! Words with a full stop that do not end a sentence: English, German, French, Spanish, Italian, Portuguese, Polish.

use std::collections::HashSet;
use std::sync::LazyLock;

/// By language. Those that are words of one of the languages too (`art`, `est`, `sun`) are left out, but for `no`, `al`
/// and the like, which hardly end a sentence.
const ABBREVIATIONS: &str = "
sr gem ms ing med
mr mrs ms messrs dr prof rev gen col sgt capt lt cpl st gov sen rep supt mt ft vs viz cf al eg ie
no nos vol vols fig figs eq eqs sect ch chap pp ed eds approx dept refs
jan feb apr jul aug sep sept oct nov dec tue tues thu thur thurs
ave blvd rd hwy misc repr resp
bzw bspw evtl ggf ggfs vgl abb abs anm aufl bd bde bearb betr bez ca dipl ing dgl ebd einschl engl entspr evang
exkl fa fr frl geb gegr hg hgb hl hr hrn hrsg inkl insb jg jh jhd kap kath kfm lfd mio mrd
nachf nr nrn österr phil plz röm sog spez std str tel tsd ursprgl urspr verl vermutl vorm
wiss zt ztr zzgl zit zw allg amtl ausg ausschl begr bzgl chem ehem eigtl frz gek gez griech ital jüd langj
mm mme mlle mgr pr av éd hab réf tél fasc trad
sra srta sres dra drs ud uds vd vds pág págs núm núms avda cap ej gral izq dcha ntra pbro
profa rte sto sta tfno
sig sigg sigra sigri dott dottssa profssa avv arch geom rag gent egr spett pag pagg capp cfr artt
lett mons nn num tav
exmo exma ilmo ilma srs eng enga arq cia ltda obs séc sécs fls dto
inż ks św płk mjr kpt ul pl np tzn tzw tj m.in godz
zob wyd rys tab ust lek dyr kier woj gm
";

/// Words that are abbreviations before a number alone.
const COUNTERS: &str = "sec art env max min est ex por no os red";

/// Abbreviations that stand at the end of a sentence as often as not.
const LAST: &str = "etc usw usf ecc itd itp co inc ltd corp bros jr llc esq uam uä ff";

const MONTHS: &str = "
januar jänner februar feber märz april mai juni juli august september oktober november dezember
jan feb mär apr jun jul aug sep sept okt nov dez
stycznia lutego marca kwietnia maja czerwca lipca sierpnia września października listopada grudnia
janvier février mars avril juin juillet août septembre octobre novembre décembre
";

/// Words that ordinals count.
const COUNTED: &str = "
jahrhundert jahrhunderts jahrtausend jh jhd kapitel auflage klasse platz tag woche monat jahr jahres mal etage stock
obergeschoss geburtstag jahrestag weltkrieg weltkriegs bundesliga liga sitzung wahlperiode legislaturperiode semester
quartal halbjahr absatz satz abschnitt band teil runde spieltag minute stunde wieku wiek rocznica klasa rozdział
";

/// Words before an ordinal.
const ARTICLES: &str = "
am der die das dem den des im vom zum zur beim seit bis ab ins ans jeder jede jedes jedem jeden dieser diese diesem
diesen ihr ihre ihrem ihren ihrer sein seine seinem seinen seiner mein meine meinem meinen unser unsere unserem unseren
dnia od do
";

fn words(list: &'static str) -> HashSet<&'static str> {
    list.split_whitespace().collect()
}

static ALL: LazyLock<HashSet<&str>> = LazyLock::new(|| words(ABBREVIATIONS));
static OF_COUNTERS: LazyLock<HashSet<&str>> = LazyLock::new(|| words(COUNTERS));
static ENDING: LazyLock<HashSet<&str>> = LazyLock::new(|| words(LAST));
static OF_MONTHS: LazyLock<HashSet<&str>> = LazyLock::new(|| words(MONTHS));
static OF_COUNTED: LazyLock<HashSet<&str>> = LazyLock::new(|| words(COUNTED));
static OF_ARTICLES: LazyLock<HashSet<&str>> = LazyLock::new(|| words(ARTICLES));

/// Of a word in small letters, as are those below.
pub(super) fn is_abbreviation(word: &str) -> bool {
    ALL.contains(word)
}

pub(super) fn is_counter(word: &str) -> bool {
    OF_COUNTERS.contains(word)
}

pub(super) fn is_last_word(word: &str) -> bool {
    ENDING.contains(word)
}

pub(super) fn is_month(word: &str) -> bool {
    OF_MONTHS.contains(word)
}

pub(super) fn is_counted(word: &str) -> bool {
    OF_COUNTED.contains(word.to_lowercase().as_str())
}

pub(super) fn is_article(word: &str) -> bool {
    OF_ARTICLES.contains(word)
}
