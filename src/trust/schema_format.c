/*-------------------------------------------------------------------------
 *
 * schema_format.c
 *	  Patterns and formats of JSON Schema.
 *
 *	  Patterns are ECMAScript's (ECMA-262), and PostgreSQL has regular
 *	  expressions of its own, so they are translated where they differ, and
 *	  refused where the difference cannot be bridged.  They are matched under
 *	  the collation "C": \d and \w mean ASCII in ECMAScript.
 *
 *	  Formats follow the documents that JSON Schema names for them: RFC 3339
 *	  (date-time, date, time; durations as in its appendix A), RFC 5321 (email),
 *	  RFC 1123 (hostname), RFC 2673 (ipv4), RFC 4291 (ipv6), RFC 3986 (uri),
 *	  RFC 4122 (uuid), RFC 6901 (json-pointer).
 *
 * IDENTIFICATION
 *	  src/trust/schema_format.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <arpa/inet.h>

#include "catalog/pg_collation.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "regex/regex.h"
#include "utils/builtins.h"
#include "utils/datetime.h"

#include "cdp.h"
#include "trust/schema.h"

/* ---- patterns ---- */

/* White space of ECMAScript, which is Unicode's whatever the collation. */
#define SPACES " \\f\\n\\r\\t\\v\\u00a0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000\\ufeff"

CdpPattern *
CdpPatternTranslate(const char *pattern, int len, const char **why)
{
	CdpPattern *result = palloc0_object(CdpPattern);
	StringInfoData buf;
	bool bracket = false;

	*why = NULL;
	initStringInfo(&buf);
	/* what follows is an advanced regular expression, whatever it begins with */
	appendStringInfoString(&buf, "***:");
	for (int i = 0; i < len; i++)
	{
		char c = pattern[i];
		char next = i + 1 < len ? pattern[i + 1] : '\0';

		if (c == '\\')
		{
			if (next == '\0')
				*why = "The pattern ends with a backslash.";
			else if (next == 'b' && !bracket)
				appendStringInfoString(&buf, "\\y");
			else if (next == 'B' && !bracket)
				appendStringInfoString(&buf, "\\Y");
			else if (next == 'x' && i + 3 < len && isxdigit((unsigned char) pattern[i + 2]) &&
					 isxdigit((unsigned char) pattern[i + 3]))
			{
				appendStringInfo(&buf, "\\u00%.2s", pattern + i + 2);
				i += 2;
			}
			else if (next == 'u' && i + 5 < len && isxdigit((unsigned char) pattern[i + 2]))
			{
				appendStringInfo(&buf, "\\u%.4s", pattern + i + 2);
				i += 4;
			}
			else if (next == 's')
				appendStringInfoString(&buf, bracket ? SPACES : "[" SPACES "]");
			else if (next == 'S' && !bracket)
				appendStringInfoString(&buf, "[^" SPACES "]");
			else if (next >= '1' && next <= '9')
				*why = "Back references are not supported: matching them can take forever.";
			else if (strchr("dDwWfnrtvb0", next) != NULL)
				appendStringInfo(&buf, "\\%c", next);
			else if (next == 'c' && i + 2 < len && isalpha((unsigned char) pattern[i + 2]))
			{
				appendStringInfo(&buf, "\\c%c", pattern[i + 2]);
				i++;
			}
			else if (ispunct((unsigned char) next))
				appendStringInfo(&buf, "\\%c", next);
			else
				*why = psprintf("The escape \\%.*s is not supported.", pg_mblen(pattern + i + 1), pattern + i + 1);
			i++;
		}
		else if (bracket)
		{
			if (c == '[' && (next == ':' || next == '.' || next == '='))
				appendStringInfoString(&buf, "\\[");
			else
				appendStringInfoChar(&buf, c);
			bracket = c != ']';
		}
		else if (c == '[')
		{
			bracket = true;
			appendStringInfoChar(&buf, c);
			if (next == '^')
				appendStringInfoChar(&buf, pattern[++i]);
			/* [] is nothing and [^] is anything; PostgreSQL takes the ] for a member */
			if (i + 1 < len && pattern[i + 1] == ']')
				*why = "An empty bracket expression is not supported.";
		}
		else if (c == '.')
			appendStringInfoString(&buf, "[^\\n\\r\\u2028\\u2029]");
		else if (c == '(' && next == '?')
		{
			const char *rest = pattern + i + 2;
			int left = len - i - 2;

			if (left > 0 && (rest[0] == ':' || rest[0] == '=' || rest[0] == '!' || (rest[0] == '<' && left > 1 && (rest[1] == '=' || rest[1] == '!'))))
			{
				appendStringInfoChar(&buf, c);
				result->looks_around |= rest[0] != ':';
			}
			else
				*why = "Named groups and flags inside a pattern are not supported.";
		}
		else
			appendStringInfoChar(&buf, c);
		if (*why != NULL)
			return NULL;
	}
	result->regexp = cstring_to_text_with_len(buf.data, buf.len);
	return result;
}

bool
CdpPatternMatches(CdpPattern *pattern, const char *value, int len)
{
	return RE_compile_and_execute(pattern->regexp, unconstify(char *, value), len, REG_ADVANCED | REG_NOSUB,
								  C_COLLATION_OID, 0, NULL);
}

/* ---- formats ---- */

/* So many digits at *p; their value, or -1. */
static int
digits(const char **p, const char *end, int n)
{
	int value = 0;

	if (end - *p < n)
		return -1;
	for (int i = 0; i < n; i++, (*p)++)
	{
		if (!isdigit((unsigned char) **p))
			return -1;
		value = value * 10 + (**p - '0');
	}
	return value;
}

static bool
literal(const char **p, const char *end, char c)
{
	if (*p >= end || **p != c)
		return false;
	(*p)++;
	return true;
}

static bool
scan_date(const char **p, const char *end)
{
	int year = digits(p, end, 4);
	int month;
	int day;

	if (year < 0 || !literal(p, end, '-') || (month = digits(p, end, 2)) < 1 || month > 12 ||
		!literal(p, end, '-') || (day = digits(p, end, 2)) < 1)
		return false;
	return day <= day_tab[isleap(year)][month - 1];
}

/* A leap second is the last of a day in UTC. */
static bool
scan_time(const char **p, const char *end)
{
	int hour = digits(p, end, 2);
	int minute;
	int second;
	int offset = 0;

	if (hour < 0 || hour > 23 || !literal(p, end, ':') ||
		(minute = digits(p, end, 2)) < 0 || minute > 59 || !literal(p, end, ':') ||
		(second = digits(p, end, 2)) < 0 || second > 60)
		return false;
	if (literal(p, end, '.'))
	{
		if (*p >= end || !isdigit((unsigned char) **p))
			return false;
		while (*p < end && isdigit((unsigned char) **p))
			(*p)++;
	}
	if (*p < end && (**p == 'Z' || **p == 'z'))
		(*p)++;
	else if (*p < end && (**p == '+' || **p == '-'))
	{
		int sign = *(*p)++ == '+' ? 1 : -1;
		int hours = digits(p, end, 2);
		int minutes;

		if (hours < 0 || hours > 23 || !literal(p, end, ':') ||
			(minutes = digits(p, end, 2)) < 0 || minutes > 59)
			return false;
		offset = sign * (hours * 60 + minutes);
	}
	else
		return false;
	return second < 60 || (hour * 60 + minute - offset + 2 * 1440) % 1440 == 1439;
}

static bool
is_date(const char *value, int len)
{
	const char *p = value;

	return scan_date(&p, value + len) && p == value + len;
}

static bool
is_time(const char *value, int len)
{
	const char *p = value;

	return scan_time(&p, value + len) && p == value + len;
}

static bool
is_date_time(const char *value, int len)
{
	const char *p = value;
	const char *end = value + len;

	return scan_date(&p, end) && (literal(&p, end, 'T') || literal(&p, end, 't')) &&
		scan_time(&p, end) && p == end;
}

/* PnYnMnDTnHnMnS without gaps between the units, or PnW. */
static bool
is_duration(const char *value, int len)
{
	static const char *const dates = "YMD";
	static const char *const times = "HMS";
	const char *p = value;
	const char *end = value + len;
	const char *units = dates;
	const char *last = NULL;
	bool some = false;

	if (!literal(&p, end, 'P') || p == end)
		return false;
	while (p < end)
	{
		const char *unit;

		if (units == dates && literal(&p, end, 'T'))
		{
			if (p == end)
				return false;
			units = times;
			last = NULL;
			continue;
		}
		if (!isdigit((unsigned char) *p))
			return false;
		while (p < end && isdigit((unsigned char) *p))
			p++;
		if (p == end)
			return false;
		if (*p == 'W')
			return !some && units == dates && p + 1 == end;
		unit = *p == '\0' ? NULL : strchr(units, *p);
		if (unit == NULL || (last != NULL && unit != last + 1))
			return false;
		last = unit;
		some = true;
		p++;
	}
	return some;
}

static bool
is_hostname(const char *value, int len)
{
	int label = 0;

	if (len < 1 || len > 253)
		return false;
	for (int i = 0; i <= len; i++)
	{
		if (i == len || value[i] == '.')
		{
			if (label < 1 || label > 63 || value[i - 1] == '-' || value[i - label] == '-')
				return false;
			label = 0;
		}
		else if ((isalnum((unsigned char) value[i]) && !IS_HIGHBIT_SET(value[i])) || value[i] == '-')
			label++;
		else
			return false;
	}
	return true;
}

static bool
is_address(int family, const char *value, int len)
{
	unsigned char address[16];
	char buf[64];

	if (len >= (int) sizeof(buf) || memchr(value, '\0', len) != NULL)
		return false;
	memcpy(buf, value, len);
	buf[len] = '\0';
	return inet_pton(family, buf, address) == 1;
}

static bool
is_ipv4(const char *value, int len)
{
	return is_address(AF_INET, value, len);
}

static bool
is_ipv6(const char *value, int len)
{
	return is_address(AF_INET6, value, len);
}

static bool
is_email(const char *value, int len)
{
	int at = len;
	const char *domain;
	int domainlen;

	while (at > 0 && value[at - 1] != '@')
		at--;
	if (at < 2)
		return false;
	domain = value + at;
	domainlen = len - at;
	at--; /* length of the local part */
	if (value[0] == '"')
	{
		if (at < 2 || value[at - 1] != '"')
			return false;
		for (int i = 1; i < at - 1; i++)
		{
			if (value[i] == '\\' && i + 1 < at - 1)
				i++;
			else if (value[i] == '"' || value[i] == '\\')
				return false;
			if ((unsigned char) value[i] < 32 || (unsigned char) value[i] > 126)
				return false;
		}
	}
	else
	{
		for (int i = 0; i < at; i++)
		{
			bool dot = value[i] == '.';

			if (dot && (i == 0 || i == at - 1 || value[i - 1] == '.'))
				return false;
			if (!dot && ((unsigned char) value[i] > 126 || (!isalnum((unsigned char) value[i]) && (value[i] == '\0' || strchr("!#$%&'*+-/=?^_`{|}~", value[i]) == NULL))))
				return false;
		}
	}
	if (domainlen > 2 && domain[0] == '[' && domain[domainlen - 1] == ']')
		return domainlen > 7 && pg_strncasecmp(domain + 1, "IPv6:", 5) == 0 ?
			is_ipv6(domain + 6, domainlen - 7) :
			is_ipv4(domain + 1, domainlen - 2);
	return is_hostname(domain, domainlen);
}

static bool
is_uuid(const char *value, int len)
{
	if (len != 36)
		return false;
	for (int i = 0; i < len; i++)
	{
		bool dash = i == 8 || i == 13 || i == 18 || i == 23;

		if (dash ? value[i] != '-' : !isxdigit((unsigned char) value[i]))
			return false;
	}
	return true;
}

static bool
is_json_pointer(const char *value, int len)
{
	if (len > 0 && value[0] != '/')
		return false;
	for (int i = 0; i < len; i++)
		if (value[i] == '~' && (i + 1 == len || (value[i + 1] != '0' && value[i + 1] != '1')))
			return false;
	return true;
}

/*
 * scheme ":" and what may follow it.  Of the authority the form of an IPv6
 * address and of the port are looked at.
 */
static bool
is_uri(const char *value, int len)
{
	static const char *const allowed = "-._~:/?#[]@!$&'()*+,;=%";
	int colon = 0;
	bool fragment = false;

	while (colon < len && (isalnum((unsigned char) value[colon]) || strchr("+-.", value[colon]) != NULL) &&
		   value[colon] != '\0')
		colon++;
	if (colon == 0 || colon >= len || value[colon] != ':' || !isalpha((unsigned char) value[0]))
		return false;
	for (int i = 0; i < len; i++)
	{
		unsigned char c = value[i];

		if (c > 126 || c == '\0' || (!isalnum(c) && strchr(allowed, c) == NULL))
			return false;
		if (c == '%' && (i + 2 >= len || !isxdigit((unsigned char) value[i + 1]) || !isxdigit((unsigned char) value[i + 2])))
			return false;
		if (c == '#' && fragment)
			return false;
		fragment |= c == '#';
	}
	if (colon + 2 < len && value[colon + 1] == '/' && value[colon + 2] == '/')
	{
		const char *host = value + colon + 3;
		const char *end = host;
		const char *at;
		const char *port;

		while (end < value + len && strchr("/?#", *end) == NULL)
			end++;
		for (at = end; at > host && at[-1] != '@'; at--)
			;
		if (at > host && (memchr(host, '[', at - host) != NULL || memchr(host, ']', at - host) != NULL))
			return false;
		host = at;
		port = host;
		if (host < end && *host == '[')
		{
			const char *close = memchr(host, ']', end - host);

			if (close == NULL || !is_ipv6(host + 1, close - host - 1))
				return false;
			port = close + 1;
		}
		else
		{
			while (port < end && *port != ':')
				if (*port == '[' || *port == ']')
					return false;
				else
					port++;
		}
		if (port < end && *port++ != ':')
			return false;
		for (; port < end; port++)
			if (!isdigit((unsigned char) *port))
				return false;
		return true;
	}
	return memchr(value, '[', len) == NULL && memchr(value, ']', len) == NULL;
}

CdpFormatCheck
CdpFormatByName(const char *name, int len)
{
	static const struct
	{
		const char *name;
		CdpFormatCheck check;
	} known[] = {
		{ "date-time", is_date_time }, { "date", is_date }, { "time", is_time }, { "duration", is_duration }, { "email", is_email }, { "hostname", is_hostname }, { "ipv4", is_ipv4 }, { "ipv6", is_ipv6 }, { "uri", is_uri }, { "uuid", is_uuid }, { "json-pointer", is_json_pointer }
	};

	for (int i = 0; i < lengthof(known); i++)
		if ((int) strlen(known[i].name) == len && memcmp(known[i].name, name, len) == 0)
			return known[i].check;
	return NULL;
}
