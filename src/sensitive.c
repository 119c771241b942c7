/*-------------------------------------------------------------------------
 *
 * sensitive.c
 *	  Values that not everybody who reads may see.
 *
 *	  Most databases have nothing sensitive: then no call costs more than to
 *	  see that the table has no page.  The names are kept in the backend until
 *	  the table's relcache entry is invalidated, which a trigger on it does.
 *	  The right is looked up each time, as it can be given and taken.
 *
 * IDENTIFICATION
 *	  src/sensitive.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_proc.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "cdp.h"
#include "compat.h"
#include "sensitive.h"
#include "statement.h"

#define KEY_MAX 256

static CdpStatement read_names = {
	"SELECT left(s.object, 1), s.name FROM cdp.sensitive_names s"
	" ORDER BY left(s.object, 1) COLLATE \"C\", s.name COLLATE \"C\"",
	{ NULL },
	"sensitive_names"
};

/* "k" or "t" or "a" and the name, ordered bytewise */
static char **names = NULL;
static int nnames = 0;
static bool loaded = false;
static Oid	table = InvalidOid;
static MemoryContext names_context = NULL;

static void
forget_names(Datum arg, Oid relid)
{
	if (!OidIsValid(relid) || relid == table)
		loaded = false;
}

static void
load_names(void)
{
	static bool registered = false;
	CdpUserContext saved;
	bool empty;

	if (loaded)
		return;
	if (!registered)
	{
		CacheRegisterRelcacheCallback(forget_names, (Datum) 0);
		registered = true;
	}
	if (names_context == NULL)
		names_context = AllocSetContextCreate(TopMemoryContext, "cdp sensitive names",
											  ALLOCSET_SMALL_SIZES);
	nnames = 0;
	names = NULL;
	MemoryContextReset(names_context);

	/* set first: an invalidation while the table is read counts */
	table = CdpRelationOid("sensitive_names");
	loaded = true;
	PG_TRY();
	{
		empty = CdpTableIsVoid("sensitive_names");
	}
	PG_CATCH();
	{
		loaded = false;
		PG_RE_THROW();
	}
	PG_END_TRY();
	if (empty)
		return;
	CdpBecomeOwner(&saved);
	SPI_connect();
	PG_TRY();
	{
		uint64 n = CdpRun(&read_names, NULL, NULL);
		MemoryContext old = MemoryContextSwitchTo(names_context);

		names = palloc_array(char *, Max(n, 1));
		for (uint64 i = 0; i < n; i++)
		{
			char *what = TextDatumGetCString(CdpCell(i, 1, &(bool){ false }));
			char *name = TextDatumGetCString(CdpCell(i, 2, &(bool){ false }));

			names[nnames++] = psprintf("%s%s", what, name);
		}
		MemoryContextSwitchTo(old);
	}
	PG_CATCH();
	{
		loaded = false;
		PG_RE_THROW();
	}
	PG_END_TRY();
	SPI_finish();
	CdpRestoreUser(&saved);
}

static bool
may_see(void)
{
	oidvector *none = buildoidvector(NULL, 0);
	Oid function = GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid,
								   CStringGetDatum("see_sensitive"),
								   PointerGetDatum(none),
								   ObjectIdGetDatum(CdpSchemaOid()));

	return OidIsValid(function) &&
		CdpMayExecute(function, GetOuterUserId());
}

bool
CdpAnythingHidden(void)
{
	load_names();
	return nnames > 0 && !may_see();
}

/* The names are kept in lower case. */
static bool
is_listed(CdpSensitive what, const char *name, int len)
{
	char key[KEY_MAX];
	int low = 0;
	int high = nnames;

	if (len > KEY_MAX - 2)
		return false;
	key[0] = (char) what;
	for (int i = 0; i < len; i++)
		key[i + 1] = pg_ascii_tolower((unsigned char) name[i]);
	key[len + 1] = '\0';
	while (low < high)
	{
		int middle = (low + high) / 2;
		int cmp = strcmp(names[middle], key);

		if (cmp == 0)
			return true;
		if (cmp < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return false;
}

bool
CdpHidden(CdpSensitive what, const char *name, int len)
{
	load_names();
	return nnames > 0 && is_listed(what, name, len) && !may_see();
}

void
CdpMustSee(CdpSensitive what, const char *name)
{
	if (CdpHidden(what, name, strlen(name)))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("%s \"%s\" is sensitive",
						what == CDP_SENSITIVE_KIND ? "kind" : "trait", name),
				 errhint("Who may execute cdp.see_sensitive() may use it.")));
}

struct varlena *
CdpShownIdentifier(struct varlena *identifier)
{
	const char *data = VARDATA_ANY(identifier);
	const char *colon = memchr(data, ':', VARSIZE_ANY_EXHDR(identifier));

	if (colon == NULL || !CdpHidden(CDP_SENSITIVE_KIND, data, colon - data))
		return identifier;
	return (struct varlena *) cstring_to_text(psprintf("%.*s:%s", (int) (colon - data),
													   data, CDP_MASK));
}

/*
 * Whatever the depth: clients put addresses into properties, into
 * context.traits and into arrays of objects alike.
 */
Jsonb *
CdpShownJsonb(Jsonb *json)
{
	JsonbParseState *state = NULL;
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue v;
	JsonbValue *result = NULL;
	bool skip = false;

	if (!CdpAnythingHidden())
		return json;
	iterator = JsonbIteratorInit(&json->root);
	while ((token = JsonbIteratorNext(&iterator, &v, skip)) != WJB_DONE)
	{
		skip = false;
		if (token == WJB_KEY &&
			(is_listed(CDP_SENSITIVE_TRAIT, v.val.string.val, v.val.string.len) ||
			 is_listed(CDP_SENSITIVE_ACCOUNT_TRAIT, v.val.string.val, v.val.string.len) ||
			 is_listed(CDP_SENSITIVE_KIND, v.val.string.val, v.val.string.len)))
		{
			(void) pushJsonbValue(&state, WJB_KEY, &v);
			/* its value, a container as one */
			(void) JsonbIteratorNext(&iterator, &v, true);
			v.type = jbvString;
			v.val.string.val = pstrdup(CDP_MASK);
			v.val.string.len = strlen(CDP_MASK);
			(void) pushJsonbValue(&state, WJB_VALUE, &v);
			continue;
		}
		result = pushJsonbValue(&state, token,
								token < WJB_BEGIN_ARRAY ||
										(token == WJB_BEGIN_ARRAY && v.val.array.rawScalar) ?
									&v :
									NULL);
	}
	return JsonbValueToJsonb(result);
}

PG_FUNCTION_INFO_V1(cdp_shown_identifier);
PG_FUNCTION_INFO_V1(cdp_shown_identifiers);
PG_FUNCTION_INFO_V1(cdp_shown_jsonb);
PG_FUNCTION_INFO_V1(cdp_shown_error);
PG_FUNCTION_INFO_V1(cdp_sensitivity_changed);

/*
 * cdp.shown(identifier) returns identifier
 */
Datum
cdp_shown_identifier(PG_FUNCTION_ARGS)
{
	PG_RETURN_POINTER(CdpShownIdentifier(PG_GETARG_VARLENA_PP(0)));
}

/*
 * cdp.shown(identifier[]) returns identifier[]
 */
Datum
cdp_shown_identifiers(PG_FUNCTION_ARGS)
{
	ArrayType *array = PG_GETARG_ARRAYTYPE_P(0);
	Datum *elements;
	bool *nulls;
	int n;

	if (!CdpAnythingHidden())
		PG_RETURN_ARRAYTYPE_P(array);
	deconstruct_array(array, ARR_ELEMTYPE(array), -1, false, TYPALIGN_INT,
					  &elements, &nulls, &n);
	for (int i = 0; i < n; i++)
		if (!nulls[i])
			elements[i] = PointerGetDatum(CdpShownIdentifier(PG_DETOAST_DATUM_PACKED(elements[i])));
	PG_RETURN_ARRAYTYPE_P(construct_md_array(elements, nulls, ARR_NDIM(array), ARR_DIMS(array),
											 ARR_LBOUND(array), ARR_ELEMTYPE(array),
											 -1, false, TYPALIGN_INT));
}

/*
 * cdp.shown(jsonb) returns jsonb
 */
Datum
cdp_shown_jsonb(PG_FUNCTION_ARGS)
{
	PG_RETURN_JSONB_P(CdpShownJsonb(PG_GETARG_JSONB_P(0)));
}

/*
 * cdp.shown_error(text) returns text
 */
Datum
cdp_shown_error(PG_FUNCTION_ARGS)
{
	if (CdpAnythingHidden())
		PG_RETURN_TEXT_P(cstring_to_text(CDP_MASK));
	PG_RETURN_DATUM(PG_GETARG_DATUM(0));
}

/*
 * Trigger on cdp.sensitive_names: all backends read it anew.
 */
Datum
cdp_sensitivity_changed(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		elog(ERROR, "cdp_sensitivity_changed: not called by trigger manager");
	CacheInvalidateRelcache(((TriggerData *) fcinfo->context)->tg_relation);
	PG_RETURN_POINTER(NULL);
}
