/*-------------------------------------------------------------------------
 *
 * normalise.c
 *	  Normalisers: the canonical form of a value of some kind.
 *
 *	  A normaliser either gives the canonical form or says that there is none;
 *	  it raises no error for what the value contains, since values come from
 *	  the log and one bad value must not stop a batch.  Each is idempotent:
 *	  lookups normalise what may be canonical already.
 *
 *	  Values are in the server's encoding, ICU and libphonenumber take UTF-8;
 *	  what cannot be converted has no canonical form.
 *
 *	  The rules, and why they are as they are, stand in README.md.
 *
 * IDENTIFICATION
 *	  src/identity/normalise.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <unicode/uchar.h>
#include <unicode/uidna.h>
#include <unicode/unorm2.h>
#include <unicode/ustring.h>
#include <unicode/uversion.h>

#include "catalog/namespace.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/tuplestore.h"

#include "identity/identity.h"
#include "identity/phone.h"

/*
 * Values longer than this are not looked at: canonical identifiers are at
 * most CDP_MAX_IDENTIFIER long, and no honest value shrinks to a quarter.
 */
#define CDP_MAX_VALUE	(4 * CDP_MAX_IDENTIFIER)

/* RFC 5321, section 4.5.3.1, in octets */
#define MAX_LOCAL		64
#define MAX_DOMAIN		253
#define MAX_LABEL		63
#define MAX_ADDRESS		254

/* No region: only numbers in international form are read. */
#define NO_REGION		"ZZ"

PG_FUNCTION_INFO_V1(cdp_normalise);
PG_FUNCTION_INFO_V1(cdp_normalise_phone);
PG_FUNCTION_INFO_V1(cdp_normaliser_versions);

static bool normalise_verbatim(const char *value, int len, char **out, int *outlen);
static bool normalise_nfkc(const char *value, int len, char **out, int *outlen);
static bool normalise_lower(const char *value, int len, char **out, int *outlen);
static bool normalise_domain(const char *value, int len, char **out, int *outlen);
static bool normalise_email(const char *value, int len, char **out, int *outlen);
static bool normalise_phone(const char *value, int len, char **out, int *outlen);

static const struct
{
	const char *name;
	CdpNormaliser function;
}			normalisers[] =
{
	{"domain", normalise_domain},
	{"email", normalise_email},
	{"lower", normalise_lower},
	{"nfkc", normalise_nfkc},
	{"phone", normalise_phone},
	{"verbatim", normalise_verbatim},
};

CdpNormaliser
CdpNormaliserByName(const char *name)
{
	int			i;

	for (i = 0; i < lengthof(normalisers); i++)
		if (strcmp(normalisers[i].name, name) == 0)
			return normalisers[i].function;
	return NULL;
}

/* ---- encodings ---- */

/*
 * Convert without raising an error: false when some character has no
 * counterpart.  *out may be in itself.
 */
static bool
convert(int from, int to, const char *in, int len, char **out, int *outlen)
{
	Oid			proc;
	int			size;
	char	   *buf;

	if (from == to)
	{
		*out = unconstify(char *, in);
		*outlen = len;
		return true;
	}
	/* In SQL_ASCII nobody knows what the bytes are; hope for UTF-8. */
	if (from == PG_SQL_ASCII || to == PG_SQL_ASCII)
	{
		*out = unconstify(char *, in);
		*outlen = len;
		return pg_verify_mbstr(PG_UTF8, in, len, true);
	}
	proc = FindDefaultConversionProc(from, to);
	if (!OidIsValid(proc))
		return false;
	size = len * MAX_CONVERSION_GROWTH + 1;
	buf = palloc(size);
	if (pg_do_encoding_conversion_buf(proc, from, to,
									  (unsigned char *) unconstify(char *, in), len,
									  (unsigned char *) buf, size, true) != len)
		return false;
	*out = buf;
	*outlen = strlen(buf);
	return true;
}

static bool
to_utf8(const char *in, int len, char **out, int *outlen)
{
	return convert(GetDatabaseEncoding(), PG_UTF8, in, len, out, outlen);
}

static bool
from_utf8(const char *in, int len, char **out, int *outlen)
{
	return convert(PG_UTF8, GetDatabaseEncoding(), in, len, out, outlen);
}

static bool
to_utf16(const char *in, int len, UChar **out, int32_t *outlen)
{
	UErrorCode	status = U_ZERO_ERROR;
	char	   *utf8;
	int			utf8len;

	if (!to_utf8(in, len, &utf8, &utf8len))
		return false;
	*out = palloc(sizeof(UChar) * (utf8len + 1));
	u_strFromUTF8(*out, utf8len + 1, outlen, utf8, utf8len, &status);
	return U_SUCCESS(status);
}

/* The result is in UTF-8. */
static bool
from_utf16(const UChar *in, int32_t len, char **out, int *outlen)
{
	UErrorCode	status = U_ZERO_ERROR;
	int32_t		size = len * 3 + 1;
	int32_t		used;

	*out = palloc(size);
	u_strToUTF8(*out, size, &used, in, len, &status);
	*outlen = used;
	return U_SUCCESS(status);
}

static bool
is_ascii(const char *s, int len)
{
	int			i;

	for (i = 0; i < len; i++)
		if (IS_HIGHBIT_SET(s[i]))
			return false;
	return true;
}

static bool
is_ascii_space(char c)
{
	return c == ' ' || (c >= '\t' && c <= '\r');
}

static char
ascii_lower(char c)
{
	return (c >= 'A' && c <= 'Z') ? c + ('a' - 'A') : c;
}

/* ---- verbatim ---- */

static bool
normalise_verbatim(const char *value, int len, char **out, int *outlen)
{
	*out = pnstrdup(value, len);
	*outlen = len;
	return true;
}

/* ---- nfkc ---- */

/*
 * Apply a normalising form of ICU.
 */
static bool
apply_form(const UNormalizer2 *form, const UChar *in, int32_t len,
		   UChar **out, int32_t *outlen)
{
	UErrorCode	status = U_ZERO_ERROR;
	int32_t		size = len * 2 + 16;

	*out = palloc(sizeof(UChar) * size);
	*outlen = unorm2_normalize(form, in, len, *out, size, &status);
	if (status == U_BUFFER_OVERFLOW_ERROR)
	{
		status = U_ZERO_ERROR;
		size = *outlen + 1;
		*out = repalloc(*out, sizeof(UChar) * size);
		*outlen = unorm2_normalize(form, in, len, *out, size, &status);
	}
	return U_SUCCESS(status);
}

static bool
normalise_nfkc(const char *value, int len, char **out, int *outlen)
{
	UErrorCode	status = U_ZERO_ERROR;
	const UNormalizer2 *form;
	UChar	   *in;
	UChar	   *folded;
	int32_t		inlen;
	int32_t		foldedlen;
	char	   *utf8;
	int			utf8len;

	if (len > CDP_MAX_VALUE)
		return false;
	if (is_ascii(value, len))
	{
		int			i;

		*out = pnstrdup(value, len);
		*outlen = len;
		for (i = 0; i < len; i++)
			(*out)[i] = ascii_lower(value[i]);
		return true;
	}
	form = unorm2_getNFKCCasefoldInstance(&status);
	return U_SUCCESS(status) &&
		to_utf16(value, len, &in, &inlen) &&
		apply_form(form, in, inlen, &folded, &foldedlen) &&
		from_utf16(folded, foldedlen, &utf8, &utf8len) &&
		from_utf8(utf8, utf8len, out, outlen);
}

/* ---- lower ---- */

static bool
is_trimmed(UChar32 c)
{
	return u_isUWhiteSpace(c) ||
		u_hasBinaryProperty(c, UCHAR_DEFAULT_IGNORABLE_CODE_POINT);
}

/*
 * Leave out blanks, and what cannot be seen, at both ends.
 */
static void
trim(UChar **s, int32_t *len)
{
	for (;;)
	{
		int32_t		i = 0;
		UChar32		c;

		if (*len == 0)
			return;
		U16_NEXT(*s, i, *len, c);
		if (!is_trimmed(c))
			break;
		*s += i;
		*len -= i;
	}
	for (;;)
	{
		int32_t		i = *len;
		UChar32		c;

		U16_PREV(*s, 0, i, c);
		if (!is_trimmed(c))
			break;
		*len = i;
	}
}

/*
 * Composed, in lower case, trimmed.  Case folding would do more: it takes ß
 * for ss, and Groß and Gross may be two people.
 */
static bool
lower_trimmed(const UChar *s, int32_t len, UChar **out, int32_t *outlen)
{
	UErrorCode	status = U_ZERO_ERROR;
	const UNormalizer2 *nfc = unorm2_getNFCInstance(&status);
	UChar	   *composed;
	UChar	   *lower;
	int32_t		composedlen;
	int32_t		lowerlen;
	int32_t		size;

	if (U_FAILURE(status) ||
		!apply_form(nfc, s, len, &composed, &composedlen))
		return false;
	size = composedlen * 3 + 1;
	lower = palloc(sizeof(UChar) * size);
	lowerlen = u_strToLower(lower, size, composed, composedlen, "", &status);
	if (U_FAILURE(status) ||
		!apply_form(nfc, lower, lowerlen, out, outlen))
		return false;
	trim(out, outlen);
	return true;
}

static bool
normalise_lower(const char *value, int len, char **out, int *outlen)
{
	UChar	   *s;
	int32_t		slen;
	char	   *utf8;
	int			utf8len;

	if (len > CDP_MAX_VALUE)
		return false;
	if (is_ascii(value, len))
	{
		int			i;

		while (len > 0 && is_ascii_space(value[0]))
			value++, len--;
		while (len > 0 && is_ascii_space(value[len - 1]))
			len--;
		*out = pnstrdup(value, len);
		*outlen = len;
		for (i = 0; i < len; i++)
			(*out)[i] = ascii_lower(value[i]);
		return true;
	}
	return to_utf16(value, len, &s, &slen) &&
		lower_trimmed(s, slen, &s, &slen) &&
		from_utf16(s, slen, &utf8, &utf8len) &&
		from_utf8(utf8, utf8len, out, outlen);
}

/* ---- email ---- */

/*
 * RFC 5322's atext; beyond ASCII, everything that one can see (RFC 6531).
 */
static bool
is_atext(UChar32 c)
{
	if (c < 0x80)
		return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
			(c >= '0' && c <= '9') ||
			(c != 0 && strchr("!#$%&'*+/=?^_`{|}~-", c) != NULL);
	if (u_isUWhiteSpace(c))
		return false;
	switch (u_charType(c))
	{
		case U_CONTROL_CHAR:
		case U_SURROGATE:
		case U_LINE_SEPARATOR:
		case U_PARAGRAPH_SEPARATOR:
			return false;
		case U_FORMAT_CHAR:
			/* joiners are part of the spelling in some scripts */
			return c == 0x200C || c == 0x200D;
		default:
			return true;
	}
}

/*
 * The local part as RFC 5321 has it: a dot-string or a quoted string.
 */
static bool
check_local(const UChar *s, int32_t len)
{
	bool		dot = true;		/* at the start a dot may not stand either */
	int32_t		i = 0;

	if (len >= 2 && s[0] == '"' && s[len - 1] == '"')
	{
		bool		seen = false;

		for (i = 1; i < len - 1; i++)
		{
			if (s[i] == '"')
				return false;
			if (s[i] == '\\' && ++i == len - 1)
				return false;
			if (s[i] < 0x20 || (s[i] >= 0x7F && s[i] < 0xA0))
				return false;
			seen |= s[i] != ' ';
		}
		return seen;
	}

	while (i < len)
	{
		UChar32		c;

		U16_NEXT(s, i, len, c);
		if (c == '.' ? dot : !is_atext(c))
			return false;
		dot = c == '.';
	}
	return !dot;
}

/*
 * A domain in ASCII and lower case: at least two labels of letters, digits
 * and inner hyphens, the last of letters only.  So neither an address of the
 * internet protocol nor the name of a machine within some house passes: both
 * say nothing of who somebody is.
 */
static bool
check_domain(const char *s, int len)
{
	int			start = 0;
	int			nlabels = 0;

	if (len > MAX_DOMAIN)
		return false;
	while (start <= len)
	{
		const char *dot = memchr(s + start, '.', len - start);
		int			end = dot != NULL ? dot - s : len;
		bool		letters = true;
		int			i;

		if (end == start || end - start > MAX_LABEL ||
			s[start] == '-' || s[end - 1] == '-')
			return false;
		for (i = start; i < end; i++)
		{
			bool		letter = s[i] >= 'a' && s[i] <= 'z';

			if (!letter && s[i] != '-' && !(s[i] >= '0' && s[i] <= '9'))
				return false;
			letters &= letter;
		}
		nlabels++;
		if (end == len)
			return nlabels > 1 && end - start > 1 &&
				(letters || strncmp(s + start, "xn--", 4) == 0);
		start = end + 1;
	}
	return false;
}

/*
 * A domain in ASCII, by UTS 46 (non-transitional: ß stays apart from ss).
 * Writes at most MAX_DOMAIN bytes to out.
 */
static bool
domain_to_ascii(const UChar *domain, int32_t len, char *out, int *outlen)
{
	static UIDNA *idna = NULL;
	UErrorCode	status = U_ZERO_ERROR;
	UIDNAInfo	info = UIDNA_INFO_INITIALIZER;
	UChar		ascii[MAX_DOMAIN + 1];
	UChar		last[MAX_LABEL + 1];
	int32_t		asciilen;
	int32_t		lastlen;
	int32_t		i;

	if (idna == NULL)
		idna = uidna_openUTS46(UIDNA_USE_STD3_RULES | UIDNA_CHECK_BIDI |
							   UIDNA_CHECK_CONTEXTJ |
							   UIDNA_NONTRANSITIONAL_TO_ASCII |
							   UIDNA_NONTRANSITIONAL_TO_UNICODE, &status);
	if (U_FAILURE(status))
		return false;

	asciilen = uidna_nameToASCII(idna, domain, len, ascii, lengthof(ascii),
								 &info, &status);
	/* labels such as r3---sn are in use, whatever IDNA reserves them for */
	info.errors &= ~UIDNA_ERROR_HYPHEN_3_4;
	if (U_FAILURE(status) || info.errors != 0 || asciilen > MAX_DOMAIN)
		return false;
	for (i = 0; i < asciilen; i++)
		out[i] = (char) ascii[i];
	*outlen = asciilen;

	/* No top-level domain has anything but letters and their marks in it. */
	i = asciilen;
	while (i > 0 && ascii[i - 1] != '.')
		i--;
	if (asciilen - i < 4 || strncmp(out + i, "xn--", 4) != 0)
		return true;
	memset(&info, 0, sizeof(info));
	info.size = sizeof(info);
	lastlen = uidna_labelToUnicode(idna, ascii + i, asciilen - i,
								   last, lengthof(last), &info, &status);
	if (U_FAILURE(status) || info.errors != 0)
		return false;
	for (i = 0; i < lastlen;)
	{
		UChar32		c;

		U16_NEXT(last, i, lastlen, c);
		if (!u_isUAlphabetic(c) && !(U_GET_GC_MASK(c) & U_GC_M_MASK))
			return false;
	}
	return true;
}

/*
 * Full-width and half-width forms become the ordinary ones: they are what
 * an input method produced, not another address.
 */
static bool
map_width(const UChar *in, int32_t len, UChar **out, int32_t *outlen)
{
	UErrorCode	status = U_ZERO_ERROR;
	const UNormalizer2 *nfkc = unorm2_getNFKCInstance(&status);
	int32_t		i = 0;
	int32_t		n = 0;

	if (U_FAILURE(status))
		return false;
	/* each of them maps to one code unit */
	*out = palloc(sizeof(UChar) * (len + 1));
	while (i < len)
	{
		int32_t		start = i;
		UChar32		c;
		int			type;

		U16_NEXT(in, i, len, c);
		type = u_getIntPropertyValue(c, UCHAR_DECOMPOSITION_TYPE);
		if (type == U_DT_WIDE || type == U_DT_NARROW)
		{
			UChar		mapped[4];

			if (unorm2_getDecomposition(nfkc, c, mapped, lengthof(mapped),
										&status) != 1 || U_FAILURE(status))
				return false;
			(*out)[n++] = mapped[0];
		}
		else
			while (start < i)
				(*out)[n++] = in[start++];
	}
	*outlen = n;
	return true;
}

/*
 * The whole address in UTF-16 with width mapped, composed, in lower case,
 * trimmed.
 */
static bool
fold_address(const char *value, int len, UChar **out, int32_t *outlen)
{
	UChar	   *s;
	int32_t		slen;

	return to_utf16(value, len, &s, &slen) &&
		map_width(s, slen, &s, &slen) &&
		lower_trimmed(s, slen, out, outlen);
}

static bool
normalise_email_unicode(const char *value, int len, char **out, int *outlen)
{
	UChar	   *s;
	int32_t		slen;
	int32_t		at;
	char	   *local;
	int			locallen;
	char		domain[MAX_DOMAIN];
	int			domainlen;
	char	   *address;

	if (!fold_address(value, len, &s, &slen))
		return false;
	at = slen;
	while (at > 0 && s[at - 1] != '@')
		at--;
	/* at is where the domain begins */
	if (at < 2 || !check_local(s, at - 1) ||
		!domain_to_ascii(s + at, slen - at, domain, &domainlen) ||
		!check_domain(domain, domainlen) ||
		!from_utf16(s, at - 1, &local, &locallen) ||
		locallen > MAX_LOCAL || locallen + 1 + domainlen > MAX_ADDRESS)
		return false;
	address = palloc(locallen + 1 + domainlen);
	memcpy(address, local, locallen);
	address[locallen] = '@';
	memcpy(address + locallen + 1, domain, domainlen);
	return from_utf8(address, locallen + 1 + domainlen, out, outlen);
}

/*
 * ASCII only, and no label that IDNA would have to look into: what ICU would
 * say, without asking it.
 */
static bool
normalise_email_ascii(const char *value, int len, char **out, int *outlen)
{
	UChar		local[MAX_LOCAL];
	char	   *s = palloc(len + 1);
	int			at;
	int			i;

	for (i = 0; i < len; i++)
		s[i] = ascii_lower(value[i]);
	s[len] = '\0';
	for (at = len; at > 0 && s[at - 1] != '@'; at--)
		;
	if (at < 2 || at - 1 > MAX_LOCAL)
		return false;
	for (i = 0; i < at - 1; i++)
		local[i] = s[i];
	*out = s;
	*outlen = len;
	return check_local(local, at - 1) && check_domain(s + at, len - at);
}

static bool
normalise_email(const char *value, int len, char **out, int *outlen)
{
	int			i;

	if (len > CDP_MAX_VALUE)
		return false;
	if (!is_ascii(value, len))
		return normalise_email_unicode(value, len, out, outlen);

	while (len > 0 && is_ascii_space(value[0]))
		value++, len--;
	while (len > 0 && is_ascii_space(value[len - 1]))
		len--;
	for (i = 0; i + 4 <= len; i++)
		if (pg_strncasecmp(value + i, "xn--", 4) == 0)
			return normalise_email_unicode(value, len, out, outlen);
	return len <= MAX_ADDRESS && normalise_email_ascii(value, len, out, outlen);
}

/*
 * A domain, in the form that it has behind the at sign of an address.
 */
static bool
normalise_domain(const char *value, int len, char **out, int *outlen)
{
	UChar	   *s;
	int32_t		slen;
	char		domain[MAX_DOMAIN];
	int			domainlen;

	if (len > CDP_MAX_VALUE || !fold_address(value, len, &s, &slen) ||
		!domain_to_ascii(s, slen, domain, &domainlen) || !check_domain(domain, domainlen))
		return false;
	return from_utf8(domain, domainlen, out, outlen);
}

/* ---- phone ---- */

#ifdef CDP_WITH_PHONENUMBER

static bool
phone_in_region(const char *value, int len, const char *region,
				char **out, int *outlen)
{
	char		buf[64];
	char	   *utf8;
	int			utf8len;

	if (len > CDP_MAX_VALUE || !to_utf8(value, len, &utf8, &utf8len) ||
		!CdpPhoneE164(utf8, utf8len, region, buf, sizeof(buf)))
		return false;
	*out = pstrdup(buf);
	*outlen = strlen(buf);
	return true;
}

#else

/*
 * Without the library only E.164 is read: a plus sign and seven to fifteen
 * digits, with blanks, dashes, dots and parentheses between them.
 */
static bool
phone_in_region(const char *value, int len, const char *region,
				char **out, int *outlen)
{
	char		buf[17];
	int			n = 0;
	int			i;

	for (i = 0; i < len; i++)
	{
		char		c = value[i];

		if (c == '+' ? n == 0 :
			(c >= '0' && c <= '9' && n > 0 && !(n == 1 && c == '0')))
		{
			if (n == lengthof(buf) - 1)
				return false;
			buf[n++] = c;
		}
		else if (!is_ascii_space(c) && (c == '\0' || strchr("-.()", c) == NULL))
			return false;
	}
	if (n < 8)
		return false;
	*out = pnstrdup(buf, n);
	*outlen = n;
	return true;
}

#endif							/* CDP_WITH_PHONENUMBER */

/*
 * The library takes a national prefix off what follows the country's code,
 * and of some impossible numbers another one when it reads its own answer.
 * Go on until that is over; every round shortens the number.
 */
static bool
normalise_phone(const char *value, int len, char **out, int *outlen)
{
	for (;;)
	{
		if (!phone_in_region(value, len, NO_REGION, out, outlen))
			return false;
		if (*outlen == len && memcmp(*out, value, len) == 0)
			return true;
		value = *out;
		len = *outlen;
	}
}

/* ---- SQL ---- */

/*
 * cdp.normalise(normaliser text, value text) returns text: the canonical
 * form, NULL when value has none.
 */
Datum
cdp_normalise(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	text	   *value = PG_GETARG_TEXT_PP(1);
	CdpNormaliser normaliser = CdpNormaliserByName(name);
	char	   *out;
	int			outlen;

	if (normaliser == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("normaliser \"%s\" does not exist", name),
				 errhint("Normalisers are domain, email, lower, nfkc, phone and verbatim.")));
	if (!normaliser(VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value), &out, &outlen))
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text_with_len(out, outlen));
}

/*
 * cdp.normalise_phone(value text, region text) returns text: E.164, NULL when
 * value is no number.  region NULL: only international form is read.
 */
Datum
cdp_normalise_phone(PG_FUNCTION_ARGS)
{
	text	   *value;
	char		region[3] = NO_REGION;
	char	   *out;
	int			outlen;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	value = PG_GETARG_TEXT_PP(0);
	if (!PG_ARGISNULL(1))
	{
		char	   *arg = text_to_cstring(PG_GETARG_TEXT_PP(1));
		int			i;

		for (i = 0; arg[i] != '\0' && i < 2; i++)
			region[i] = pg_ascii_toupper(arg[i]);
		if (strlen(arg) != 2 || !is_ascii(arg, 2))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("\"%s\" is not a region", arg),
					 errhint("Give a two-letter code of ISO 3166, for example DE.")));
#ifdef CDP_WITH_PHONENUMBER
		if (strcmp(region, NO_REGION) != 0 && !CdpPhoneRegionKnown(region))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("region \"%s\" has no numbering plan", region)));
#endif
	}
	if (!phone_in_region(VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value), region,
						 &out, &outlen))
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text_with_len(out, outlen));
}

/*
 * cdp.normaliser_versions() returns table(normaliser text, library text,
 * version text)
 */
Datum
cdp_normaliser_versions(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	UVersionInfo icu;
	UVersionInfo unicode;
	char		icu_text[U_MAX_VERSION_STRING_LENGTH];
	char		unicode_text[U_MAX_VERSION_STRING_LENGTH];
	char		phone_text[128] = "";
	int			i;

	InitMaterializedSRF(fcinfo, 0);
	u_getVersion(icu);
	u_versionToString(icu, icu_text);
	u_getUnicodeVersion(unicode);
	u_versionToString(unicode, unicode_text);
#ifdef CDP_WITH_PHONENUMBER
	(void) CdpPhoneVersion(phone_text, sizeof(phone_text));
#endif

	for (i = 0; i < lengthof(normalisers); i++)
	{
		Datum		values[3];
		bool		nulls[3] = {false, true, true};

		values[0] = CStringGetTextDatum(normalisers[i].name);
		if (normalisers[i].function == normalise_nfkc ||
			normalisers[i].function == normalise_lower ||
			normalisers[i].function == normalise_domain ||
			normalisers[i].function == normalise_email)
		{
			values[1] = CStringGetTextDatum("icu");
			values[2] = CStringGetTextDatum(psprintf("%s, Unicode %s",
													 icu_text, unicode_text));
			nulls[1] = nulls[2] = false;
		}
		else if (phone_text[0] != '\0' &&
				 normalisers[i].function == normalise_phone)
		{
			values[1] = CStringGetTextDatum("libphonenumber");
			values[2] = CStringGetTextDatum(phone_text);
			nulls[1] = nulls[2] = false;
		}
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}
