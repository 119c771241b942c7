/*-------------------------------------------------------------------------
 *
 * scrub.c
 *	  What in an entry names a person, and the entry without it.
 *
 *	  Identifiers are compared in their canonical form.  In jsonb, a string or
 *	  number that is the value of one of them goes with its key:
 *
 *	  - anywhere, when the value is distinctive: it has an @, or at least
 *		DISTINCTIVE bytes; what is only part of a string is replaced by
 *		[erased] then;
 *	  - under a key that names the kind (userId, user_id), or beside a "type"
 *		that does, however short it is.
 *
 *	  A short value elsewhere is left alone: user 42 is not every 42.
 *	  Comparison is bytewise, without regard to case in ASCII.
 *
 * IDENTIFICATION
 *	  src/trust/scrub.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"

#include "cdp.h"
#include "identity/graph.h"
#include "trust/erase.h"

PG_FUNCTION_INFO_V1(cdp_erasure_touches);
PG_FUNCTION_INFO_V1(cdp_erasure_scrub);
PG_FUNCTION_INFO_V1(cdp_erasure_mentions);

#define DISTINCTIVE 8
#define REPLACEMENT "[erased]"

/* Keys that are personal unless cdp.personal_keys says otherwise. */
static const char *const personal_keys[] = {
	"address", "avatar", "birthday", "city", "dateofbirth", "email", "firstname",
	"fullname", "gender", "ip", "ipaddress", "lastname", "latitude", "longitude",
	"mobile", "name", "phone", "phonenumber", "postalcode", "street", "surname",
	"username", "zip"
};

typedef struct Needle
{
	const char *value; /* in lower case */
	int			len;
	bool		distinctive;
	char	   *kind; /* its letters and digits, in lower case */
} Needle;

typedef struct Known
{
	CdpIdentifier *canonical; /* hash key */
	bool		shared;
} Known;

struct CdpScrubber
{
	CdpKindSet *kinds;
	HTAB	   *identifiers; /* Known */
	int			n;
	Needle	   *needles; /* of those that are not shared */
	Size		first[256 / (8 * sizeof(Size))]; /* first bytes of distinctive ones */
	List	   *personal; /* char *: keys as kinds are in needles */
};

static CdpScrubber *at_work = NULL;

static inline char
small(char c)
{
	return c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c;
}

static char *
lower_copy(const char *s, int len)
{
	char	   *copy = palloc(len + 1);

	for (int i = 0; i < len; i++)
		copy[i] = small(s[i]);
	copy[len] = '\0';
	return copy;
}

/*
 * The letters and digits of a name, in lower case.
 */
static char *
letters(const char *s, int len)
{
	char	   *copy = palloc(len + 1);
	int			n = 0;

	for (int i = 0; i < len; i++)
	{
		char		c = small(s[i]);

		if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || IS_HIGHBIT_SET(c))
			copy[n++] = c;
	}
	copy[n] = '\0';
	return copy;
}

CdpScrubber *
CdpScrubberMake(CdpKindSet *kinds, CdpIdentifier **identifiers, bool *shared, int n)
{
	CdpScrubber *scrubber = palloc0(sizeof(CdpScrubber));

	scrubber->kinds = kinds;
	scrubber->identifiers = CdpVarlenaTable(CurrentMemoryContext, "cdp erased identifiers",
											sizeof(Known), Max(n, 16));
	scrubber->needles = palloc(sizeof(Needle) * Max(n, 1));
	for (int i = 0; i < n; i++)
	{
		int			kindlen = CdpIdentifierKindLength(identifiers[i]);
		Needle	   *needle;
		bool		found;
		Known	   *known = hash_search(scrubber->identifiers, &identifiers[i], HASH_ENTER,
								   &found);

		known->shared = shared != NULL && shared[i];
		if (found || known->shared)
			continue;
		needle = &scrubber->needles[scrubber->n++];
		needle->len = VARSIZE_ANY_EXHDR(identifiers[i]) - kindlen - 1;
		needle->value = lower_copy((char *) VARDATA_ANY(identifiers[i]) + kindlen + 1, needle->len);
		needle->distinctive = needle->len >= DISTINCTIVE ||
			(needle->len >= 3 && memchr(needle->value, '@', needle->len) != NULL);
		needle->kind = letters(VARDATA_ANY(identifiers[i]), kindlen);
		if (needle->distinctive)
		{
			unsigned char c = needle->value[0];

			scrubber->first[c / (8 * sizeof(Size))] |= (Size) 1 << (c % (8 * sizeof(Size)));
		}
	}
	return scrubber;
}

void
CdpScrubberPersonal(CdpScrubber *scrubber, Datum *keys, bool *personal, int n)
{
	for (int i = 0; i < lengthof(personal_keys); i++)
		scrubber->personal = lappend(scrubber->personal, pstrdup(personal_keys[i]));
	for (int i = 0; i < n; i++)
	{
		text	   *key = DatumGetTextPP(keys[i]);
		char	   *name = letters(VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key));
		ListCell   *lc;

		if (personal[i])
			scrubber->personal = lappend(scrubber->personal, name);
		else
			foreach(lc, scrubber->personal)
				if (strcmp(lfirst(lc), name) == 0)
					scrubber->personal = foreach_delete_current(scrubber->personal, lc);
	}
}

bool
CdpScrubberHas(CdpScrubber *scrubber, const CdpIdentifier *canonical, bool *shared)
{
	Known	   *known = hash_search(scrubber->identifiers, &canonical, HASH_FIND, NULL);

	if (known != NULL && shared != NULL)
		*shared = known->shared;
	return known != NULL;
}

/* ---- strings ---- */

static bool
same_bytes(const char *s, const Needle *needle)
{
	for (int i = 0; i < needle->len; i++)
		if (small(s[i]) != needle->value[i])
			return false;
	return true;
}

/*
 * The first distinctive value in s from position *at on; NULL: there is none.
 */
static Needle *
find_in(CdpScrubber *scrubber, const char *s, int len, int *at)
{
	for (int i = *at; i < len; i++)
	{
		unsigned char c = small(s[i]);

		if (!(scrubber->first[c / (8 * sizeof(Size))] &
			  ((Size) 1 << (c % (8 * sizeof(Size))))))
			continue;
		for (int k = 0; k < scrubber->n; k++)
		{
			Needle	   *needle = &scrubber->needles[k];

			if (needle->distinctive && needle->len <= len - i && same_bytes(s + i, needle))
			{
				*at = i;
				return needle;
			}
		}
	}
	return NULL;
}

/*
 * Is the whole of s, blanks at its ends aside, a value that goes here?  Under a
 * key, or beside a type, that names its kind short values do, too.
 */
static bool
is_value(CdpScrubber *scrubber, const char *s, int len, const char *key, const char *type)
{
	while (len > 0 && s[0] == ' ')
		s++, len--;
	while (len > 0 && s[len - 1] == ' ')
		len--;
	for (int k = 0; k < scrubber->n; k++)
	{
		Needle	   *needle = &scrubber->needles[k];

		if (needle->len == len && len > 0 &&
			(needle->distinctive ||
			 (key != NULL && strcmp(key, needle->kind) == 0) ||
			 (type != NULL && strcmp(type, needle->kind) == 0)) &&
			same_bytes(s, needle))
			return true;
	}
	return false;
}

/*
 * s with every distinctive value in it replaced; NULL when there is none.
 */
static char *
replace_in(CdpScrubber *scrubber, const char *s, int len, int *newlen)
{
	StringInfoData buf;
	int			done = 0;
	int			at = 0;
	Needle	   *needle = find_in(scrubber, s, len, &at);

	if (needle == NULL)
		return NULL;
	initStringInfo(&buf);
	while (needle != NULL)
	{
		appendBinaryStringInfo(&buf, s + done, at - done);
		appendStringInfoString(&buf, REPLACEMENT);
		done = at = at + needle->len;
		needle = find_in(scrubber, s, len, &at);
	}
	appendBinaryStringInfo(&buf, s + done, len - done);
	*newlen = buf.len;
	return buf.data;
}

text *
CdpScrubText(CdpScrubber *scrubber, text *value)
{
	int			len;
	char	   *replaced = replace_in(scrubber, VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value), &len);

	return replaced == NULL ? NULL : cstring_to_text_with_len(replaced, len);
}

/* ---- jsonb ---- */

typedef struct Walk
{
	CdpScrubber *scrubber;
	JsonbParseState *state;
	JsonbValue *result;
	bool		anonymise; /* what is personal goes, too */
	bool		changed;
} Walk;

static void walk_container(Walk *walk, JsonbContainer *container);

/*
 * A scalar: does it go (false), or stay, perhaps changed?
 */
static bool
keep_scalar(Walk *walk, JsonbValue *value, const char *key, const char *type)
{
	if (value->type == jbvString)
	{
		char	   *replaced;
		int			len;

		if (is_value(walk->scrubber, value->val.string.val, value->val.string.len, key, type))
			return false;
		replaced = replace_in(walk->scrubber, value->val.string.val, value->val.string.len, &len);
		if (replaced != NULL)
		{
			walk->changed = true;
			value->val.string.val = replaced;
			value->val.string.len = len;
		}
	}
	else if (value->type == jbvNumeric)
	{
		char	   *digits = DatumGetCString(DirectFunctionCall1(numeric_out,
														   NumericGetDatum(value->val.numeric)));

		if (is_value(walk->scrubber, digits, strlen(digits), key, type))
			return false;
	}
	return true;
}

/*
 * Does a key stay?  It may be personal, or have a value in it.
 */
static bool
keep_key(Walk *walk, const JsonbValue *key, const char *name)
{
	ListCell   *lc;
	int			at = 0;

	if (walk->anonymise)
		foreach(lc, walk->scrubber->personal)
			if (strcmp(lfirst(lc), name) == 0)
				return false;
	return find_in(walk->scrubber, key->val.string.val, key->val.string.len, &at) == NULL;
}

/*
 * An object, to be pushed: key and values that stay.
 */
static void
walk_object(Walk *walk, JsonbContainer *container)
{
	JsonbIterator *it = JsonbIteratorInit(container);
	JsonbValue	value;
	JsonbValue	key;
	JsonbIteratorToken token;
	JsonbValue	found;
	char	   *type = NULL;

	/* {"type": "user_id", "id": …}, as in context.externalIds */
	if (getKeyJsonValueFromContainer(container, "type", 4, &found) != NULL &&
		found.type == jbvString)
		type = letters(found.val.string.val, found.val.string.len);

	walk->result = pushJsonbValue(&walk->state, WJB_BEGIN_OBJECT, NULL);
	(void) JsonbIteratorNext(&it, &value, true);
	while ((token = JsonbIteratorNext(&it, &key, true)) == WJB_KEY)
	{
		char	   *name = letters(key.val.string.val, key.val.string.len);
		bool		keep = keep_key(walk, &key, name);

		(void) JsonbIteratorNext(&it, &value, true);
		if (keep && value.type != jbvBinary)
			keep = keep_scalar(walk, &value, name,
							   strcmp(name, "id") == 0 || strcmp(name, "value") == 0 ? type : NULL);
		if (!keep)
		{
			walk->changed = true;
			continue;
		}
		(void) pushJsonbValue(&walk->state, WJB_KEY, &key);
		if (value.type == jbvBinary)
			walk_container(walk, value.val.binary.data);
		else
			(void) pushJsonbValue(&walk->state, WJB_VALUE, &value);
	}
	walk->result = pushJsonbValue(&walk->state, WJB_END_OBJECT, NULL);
}

static void
walk_container(Walk *walk, JsonbContainer *container)
{
	JsonbIterator *it;
	JsonbValue	value;
	JsonbIteratorToken token;

	check_stack_depth();
	CHECK_FOR_INTERRUPTS();
	if (JsonContainerIsObject(container))
	{
		walk_object(walk, container);
		return;
	}
	it = JsonbIteratorInit(container);
	(void) JsonbIteratorNext(&it, &value, true);
	walk->result = pushJsonbValue(&walk->state, WJB_BEGIN_ARRAY, NULL);
	while ((token = JsonbIteratorNext(&it, &value, true)) == WJB_ELEM)
	{
		if (value.type == jbvBinary)
			walk_container(walk, value.val.binary.data);
		else if (keep_scalar(walk, &value, NULL, NULL))
			(void) pushJsonbValue(&walk->state, WJB_ELEM, &value);
		else
			walk->changed = true;
	}
	walk->result = pushJsonbValue(&walk->state, WJB_END_ARRAY, NULL);
}

static Jsonb *
scrub_jsonb(CdpScrubber *scrubber, Jsonb *value, bool anonymise)
{
	Walk		walk = { .scrubber = scrubber, .anonymise = anonymise };

	if (JB_ROOT_IS_SCALAR(value))
	{
		JsonbValue	scalar;

		(void) JsonbExtractScalar(&value->root, &scalar);
		if (!keep_scalar(&walk, &scalar, NULL, NULL))
		{
			scalar.type = jbvNull;
			walk.changed = true;
		}
		return walk.changed ? JsonbValueToJsonb(&scalar) : NULL;
	}
	walk_container(&walk, &value->root);
	return walk.changed ? JsonbValueToJsonb(walk.result) : NULL;
}

Jsonb *
CdpScrubJsonb(CdpScrubber *scrubber, Jsonb *value)
{
	return scrub_jsonb(scrubber, value, false);
}

/*
 * The same of an entry of the person, of which personal keys go, too.
 */
Jsonb *
CdpAnonymiseJsonb(CdpScrubber *scrubber, Jsonb *value)
{
	return scrub_jsonb(scrubber, value, true);
}

/* ---- identifiers ---- */

ArrayType *
CdpScrubIdentifiers(CdpScrubber *scrubber, ArrayType *identifiers)
{
	Datum	   *elems;
	bool	   *nulls;
	int			n;
	int			kept = 0;
	ArrayType  *result;
	int			lower_bound = 1;

	deconstruct_array(identifiers, ARR_ELEMTYPE(identifiers), -1, false, TYPALIGN_INT,
					  &elems, &nulls, &n);
	for (int i = 0; i < n; i++)
	{
		bool		keep = true;

		if (!nulls[i])
		{
			CdpIdentifier *canonical;
			CdpKind	   *kind;
			bool		shared;

			(void) CdpCanonicalise(scrubber->kinds,
								   (CdpIdentifier *) PG_DETOAST_DATUM_PACKED(elems[i]),
								   &canonical, &kind);
			keep = canonical == NULL || !CdpScrubberHas(scrubber, canonical, &shared) || shared;
		}
		if (!keep)
			continue;
		elems[kept] = elems[i];
		nulls[kept++] = nulls[i];
	}
	if (kept == n)
		return NULL;
	if (kept == 0)
		return construct_empty_array(ARR_ELEMTYPE(identifiers));
	result = construct_md_array(elems, nulls, 1, &kept, &lower_bound, ARR_ELEMTYPE(identifiers),
								-1, false, TYPALIGN_INT);
	return result;
}

/* ---- for SQL ---- */

void
CdpScrubberAtWork(CdpScrubber *scrubber)
{
	at_work = scrubber;
}

static CdpScrubber *
scrubber_at_work(void)
{
	if (at_work == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("nobody is being erased by this session")));
	return at_work;
}

/*
 * cdp.erasure_touches(identifiers, event, properties, context) returns boolean
 */
Datum
cdp_erasure_touches(PG_FUNCTION_ARGS)
{
	CdpScrubber *scrubber = scrubber_at_work();

	if (!PG_ARGISNULL(0))
	{
		ArrayType  *identifiers = PG_GETARG_ARRAYTYPE_P(0);
		Datum	   *elems;
		bool	   *nulls;
		int			n;

		deconstruct_array(identifiers, ARR_ELEMTYPE(identifiers), -1, false, TYPALIGN_INT,
						  &elems, &nulls, &n);
		for (int i = 0; i < n; i++)
		{
			CdpIdentifier *canonical;
			CdpKind	   *kind;

			if (nulls[i])
				continue;
			(void) CdpCanonicalise(scrubber->kinds,
								   (CdpIdentifier *) PG_DETOAST_DATUM_PACKED(elems[i]),
								   &canonical, &kind);
			if (canonical != NULL && CdpScrubberHas(scrubber, canonical, NULL))
				PG_RETURN_BOOL(true);
		}
	}
	if (!PG_ARGISNULL(1) && CdpScrubText(scrubber, PG_GETARG_TEXT_PP(1)) != NULL)
		PG_RETURN_BOOL(true);
	/* what is in the row of another table is looked at where many are read at once */
	if (!PG_ARGISNULL(2) && (CdpReferenceKey(PG_GETARG_JSONB_P(2)) != NULL ||
							 CdpScrubJsonb(scrubber, PG_GETARG_JSONB_P(2)) != NULL))
		PG_RETURN_BOOL(true);
	if (!PG_ARGISNULL(3) && CdpScrubJsonb(scrubber, PG_GETARG_JSONB_P(3)) != NULL)
		PG_RETURN_BOOL(true);
	PG_RETURN_BOOL(false);
}

/*
 * cdp.erasure_scrub(value jsonb) returns jsonb
 */
Datum
cdp_erasure_scrub(PG_FUNCTION_ARGS)
{
	Jsonb	   *result = CdpScrubJsonb(scrubber_at_work(), PG_GETARG_JSONB_P(0));

	if (result == NULL)
		PG_RETURN_NULL();
	PG_RETURN_JSONB_P(result);
}

/*
 * cdp.erasure_mentions(value text) returns boolean
 */
Datum
cdp_erasure_mentions(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(CdpScrubText(scrubber_at_work(), PG_GETARG_TEXT_PP(0)) != NULL);
}
