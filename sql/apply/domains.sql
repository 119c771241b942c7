/* sql/apply/domains.sql: accounts by the domains of addresses of e-mail */

-- One row: they are wanted, as identifiers of this kind.
CREATE TABLE cdp.domain_accounts (
	one boolean PRIMARY KEY DEFAULT true CHECK (one),
	kind text NOT NULL
);
COMMENT ON TABLE cdp.domain_accounts IS 'one row where cdp.account_by_domain() has been called: the kind of accounts that domains of addresses of e-mail mean';

-- What comes with the extension; not dumped, a newer version may know more.
CREATE TABLE cdp.builtin_free_mail (
	domain text PRIMARY KEY
);
COMMENT ON TABLE cdp.builtin_free_mail IS 'providers of free mail and of mail with access to the net that come with the extension; see cdp.free_mail_domains';
INSERT INTO cdp.builtin_free_mail SELECT unnest(string_to_array(
	'gmail.com googlemail.com '
	'outlook.com outlook.at outlook.be outlook.com.ar outlook.com.au outlook.com.br outlook.com.tr outlook.cz outlook.de outlook.dk '
	'outlook.es outlook.fr outlook.ie outlook.in outlook.it outlook.jp outlook.kr outlook.pt outlook.sa outlook.sk '
	'hotmail.com hotmail.be hotmail.ca hotmail.ch hotmail.co.jp hotmail.co.th hotmail.co.uk hotmail.com.ar hotmail.com.au hotmail.com.br '
	'hotmail.com.tr hotmail.de hotmail.dk hotmail.es hotmail.fi hotmail.fr hotmail.gr hotmail.hu hotmail.it hotmail.nl hotmail.no hotmail.se '
	'live.com live.at live.be live.ca live.cl live.cn live.co.uk live.com.ar live.com.au live.com.mx live.com.pt live.de live.dk live.fi '
	'live.fr live.hk live.ie live.in live.it live.jp live.nl live.no live.ru live.se msn.com passport.com windowslive.com '
	'yahoo.com yahoo.at yahoo.be yahoo.ca yahoo.ch yahoo.cl yahoo.cn yahoo.co.id yahoo.co.in yahoo.co.jp yahoo.co.kr yahoo.co.nz yahoo.co.th '
	'yahoo.co.uk yahoo.co.za yahoo.com.ar yahoo.com.au yahoo.com.br yahoo.com.cn yahoo.com.co yahoo.com.hk yahoo.com.mx yahoo.com.my '
	'yahoo.com.ph yahoo.com.sg yahoo.com.tr yahoo.com.tw yahoo.com.vn yahoo.de yahoo.dk yahoo.es yahoo.fi yahoo.fr yahoo.gr yahoo.ie yahoo.in '
	'yahoo.it yahoo.nl yahoo.no yahoo.pl yahoo.pt yahoo.ro yahoo.se ymail.com rocketmail.com myyahoo.com '
	'aol.com aol.co.uk aol.de aol.es aol.fr aol.it aim.com icloud.com me.com mac.com '
	'proton.me protonmail.com protonmail.ch pm.me tutanota.com tutanota.de tutamail.com tuta.io tuta.com keemail.me '
	'posteo.de posteo.net mailbox.org fastmail.com fastmail.fm hushmail.com hey.com duck.com zohomail.com zoho.com runbox.com startmail.com '
	'skiff.com mailfence.com riseup.net disroot.org relay.firefox.com privaterelay.appleid.com '
	'gmx.de gmx.net gmx.at gmx.ch gmx.com gmx.co.uk gmx.es gmx.eu gmx.fr gmx.info gmx.li gmx.org gmx.us web.de freenet.de t-online.de '
	'arcor.de online.de vodafone.de 1und1.de email.de mail.de kabelmail.de unitybox.de ewetel.net netcologne.de magenta.de '
	'a1.net aon.at chello.at chello.nl bluewin.ch hispeed.ch sunrise.ch swissonline.ch '
	'orange.fr wanadoo.fr free.fr sfr.fr laposte.net neuf.fr bbox.fr numericable.fr voila.fr club-internet.fr cegetel.net '
	'libero.it virgilio.it tin.it alice.it tiscali.it tim.it inwind.it iol.it fastwebnet.it email.it poste.it '
	'terra.es telefonica.net ono.com sapo.pt iol.pt clix.pt netcabo.pt skynet.be telenet.be proximus.be scarlet.be voo.be '
	'ziggo.nl kpnmail.nl planet.nl xs4all.nl hetnet.nl home.nl upcmail.nl casema.nl quicknet.nl '
	'btinternet.com btopenworld.com sky.com talktalk.net virginmedia.com ntlworld.com blueyonder.co.uk tiscali.co.uk o2.co.uk eircom.net '
	'telia.com comhem.se bredband.net spray.se online.no mail.dk post.dk stofanet.dk kolumbus.fi luukku.com elisanet.fi '
	'wp.pl o2.pl onet.pl onet.eu op.pl interia.pl interia.eu gazeta.pl vp.pl poczta.fm tlen.pl '
	'seznam.cz email.cz post.cz centrum.cz atlas.cz volny.cz azet.sk centrum.sk zoznam.sk freemail.hu citromail.hu indamail.hu t-online.hu '
	'abv.bg mail.bg dir.bg siol.net net.hr inet.hr mynet.com '
	'mail.ru bk.ru inbox.ru list.ru internet.ru rambler.ru yandex.ru yandex.com yandex.by yandex.kz yandex.ua ya.ru ukr.net i.ua meta.ua bigmir.net '
	'qq.com foxmail.com 163.com 126.com yeah.net sina.com sina.cn sohu.com tom.com 21cn.com 139.com 189.cn aliyun.com '
	'naver.com hanmail.net daum.net nate.com hanmail.com docomo.ne.jp ezweb.ne.jp softbank.ne.jp i.softbank.jp nifty.com '
	'rediffmail.com indiatimes.com sify.com walla.com walla.co.il zahav.net.il bezeqint.net netvision.net.il emirates.net.ae '
	'uol.com.br bol.com.br terra.com.br ig.com.br globo.com globomail.com r7.com zipmail.com.br prodigy.net.mx '
	'bigpond.com bigpond.net.au optusnet.com.au iinet.net.au tpg.com.au xtra.co.nz slingshot.co.nz telkomsa.net mweb.co.za vodamail.co.za webmail.co.za '
	'comcast.net verizon.net att.net sbcglobal.net bellsouth.net cox.net charter.net earthlink.net juno.com netzero.net optonline.net '
	'roadrunner.com rr.com windstream.net centurylink.net frontier.com frontiernet.net embarqmail.com mindspring.com suddenlink.net '
	'rogers.com shaw.ca sympatico.ca bell.net telus.net videotron.ca cogeco.ca '
	'mail.com email.com usa.com post.com consultant.com engineer.com europe.com lycos.com excite.com inbox.com gawab.com '
	'mailinator.com guerrillamail.com 10minutemail.com yopmail.com trashmail.com temp-mail.org sharklasers.com getnada.com maildrop.cc '
	'dispostable.com throwawaymail.com mailnesia.com mintemail.com discard.email', ' '));

-- What users said, also of those that come with the extension.
CREATE TABLE cdp.free_mail_definitions (
	domain text PRIMARY KEY,
	free boolean NOT NULL
);
COMMENT ON TABLE cdp.free_mail_definitions IS 'domains of which cdp.free_mail_domain() said that they are those of free mail, or (not free) are none though the extension has them so';
CREATE VIEW cdp.free_mail_domains AS
	SELECT b.domain FROM cdp.builtin_free_mail b
	WHERE NOT EXISTS (SELECT FROM cdp.free_mail_definitions d WHERE d.domain = b.domain)
	UNION ALL
	SELECT d.domain FROM cdp.free_mail_definitions d WHERE d.free;
COMMENT ON VIEW cdp.free_mail_domains IS 'domains of addresses of e-mail that mean no account, because anybody can have one; changed by cdp.free_mail_domain()';
SELECT pg_extension_config_dump('cdp.domain_accounts', '');
SELECT pg_extension_config_dump('cdp.free_mail_definitions', '');

CREATE FUNCTION cdp.email_domain(identifier cdp.identifier) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
	RETURN substring(cdp.value(identifier) FROM '@([^@]*)$');
COMMENT ON FUNCTION cdp.email_domain(cdp.identifier) IS 'what is behind the last at sign of an address of e-mail in canonical form; NULL when there is none';

CREATE FUNCTION cdp.domains_changed() RETURNS void
	AS 'MODULE_PATHNAME', 'cdp_domains_changed' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.domains_changed() IS 'internal: have memberships, traits and segments follow cdp.domain_accounts and cdp.free_mail_domains, here or in steps of the applier';

CREATE FUNCTION cdp.account_by_domain(enable boolean DEFAULT true, kind text DEFAULT 'domain') RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
	found_kind record;
BEGIN
	IF $1 IS NULL OR $2 IS NULL THEN
		RAISE null_value_not_allowed USING MESSAGE = 'enable and kind must not be NULL';
	END IF;
	PERFORM cdp.definitions_lock();
	IF NOT $1 THEN
		DELETE FROM cdp.domain_accounts;
	ELSE
		SELECT k.entity, k.normaliser INTO found_kind FROM cdp.identifier_kinds k WHERE k.kind = $2;
		IF NOT FOUND THEN
			RAISE undefined_object USING
				MESSAGE = format('kind "%s" does not exist', $2),
				HINT = 'Make it by cdp.create_identifier_kind(…, entity => ''account'', normaliser => ''domain'').';
		ELSIF found_kind.entity <> 'account' OR found_kind.normaliser <> 'domain' THEN
			RAISE object_not_in_prerequisite_state USING
				MESSAGE = format('identifiers of kind "%s" are no domains of accounts', $2),
				HINT = 'Give a kind whose entity is account and whose normaliser is domain.';
		END IF;
		INSERT INTO cdp.domain_accounts AS d (kind) VALUES ($2)
		ON CONFLICT (one) DO UPDATE SET kind = excluded.kind WHERE d.kind <> excluded.kind;
	END IF;
	IF FOUND THEN
		PERFORM cdp.definitions_changed();
		PERFORM cdp.domains_changed();
	END IF;
END
$$;
COMMENT ON FUNCTION cdp.account_by_domain(boolean, text) IS
	'have everybody who has an address of e-mail be a member of the account that its domain means, unless it is one of cdp.free_mail_domains, where and while entries say nothing else of his accounts; or (enable => false) no more. kind: what identifiers of these accounts are, a kind of accounts with the normaliser domain. History follows in the transaction that calls it where it is short (cdp.backfill_at_once), else in steps of the applier, which cdp.progress shows. Errors: null_value_not_allowed, undefined_object, object_not_in_prerequisite_state';

CREATE FUNCTION cdp.free_mail_domain(domain text, free boolean DEFAULT true) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
	canonical text := cdp.normalise('domain', $1);
	before boolean;
BEGIN
	IF $1 IS NULL OR $2 IS NULL THEN
		RAISE null_value_not_allowed USING MESSAGE = 'domain and free must not be NULL';
	ELSIF canonical IS NULL THEN
		RAISE invalid_parameter_value USING MESSAGE = format('"%s" is not a domain', $1);
	END IF;
	PERFORM cdp.definitions_lock();
	before := EXISTS (SELECT FROM cdp.free_mail_domains f WHERE f.domain = canonical);
	IF $2 = EXISTS (SELECT FROM cdp.builtin_free_mail b WHERE b.domain = canonical) THEN
		DELETE FROM cdp.free_mail_definitions d WHERE d.domain = canonical;
	ELSE
		INSERT INTO cdp.free_mail_definitions AS d VALUES (canonical, $2)
		ON CONFLICT ON CONSTRAINT free_mail_definitions_pkey DO UPDATE SET free = excluded.free;
	END IF;
	IF before <> $2 THEN
		PERFORM cdp.definitions_changed();
		PERFORM cdp.domains_changed();
	END IF;
END
$$;
COMMENT ON FUNCTION cdp.free_mail_domain(text, boolean) IS
	'say that addresses of e-mail of a domain, whole and in any form that cdp.normalise(''domain'', …) takes, mean no account because anybody can have one, or (free => false) do. History follows as with cdp.account_by_domain(). Errors: null_value_not_allowed, invalid_parameter_value';

REVOKE ALL ON cdp.domain_accounts, cdp.builtin_free_mail, cdp.free_mail_definitions, cdp.free_mail_domains FROM PUBLIC;
REVOKE ALL ON FUNCTION cdp.domains_changed(), cdp.account_by_domain(boolean, text), cdp.free_mail_domain(text, boolean) FROM PUBLIC;
