/*-------------------------------------------------------------------------
 *
 * plan_set.c
 *	  The versions of tracking plans in memory, and what they say of an entry.
 *
 *	  All versions are kept in the backend by the generation of the definitions;
 *	  a schema is compiled when the first entry needs it.
 *
 *	  A plan that does more than count is part of how an entry is read, like the
 *	  kinds of identifiers: the hook of CdpGraphCheck() is called wherever an entry of
 *	  the log is read to find out what it means.  While a change that is about
 *	  history is on its way, entries that it has not reached are read by the
 *	  plans as they were (apply/rules.c).
 *
 * IDENTIFICATION
 *	  src/trust/plan_set.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/hsearch.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

#include "cdp.h"
#include "collect/attach.h"
#include "identity/graph.h"
#include "statement.h"
#include "trust/plan.h"
#include "trust/schema.h"

/* How much of a path is kept, in bytes. */
#define MAX_PATH 300

/* So many violations are named where an entry is put aside. */
#define MAX_NAMED 5

typedef struct PlanSlot
{
	uint64 key; /* of type and event */
	CdpPlan *plans;
} PlanSlot;

static CdpPlanSet *present;
static List *sets_before; /* CdpPlanSet * */

static uint64
key_of(CdpEntryType type, text *event)
{
	return event == NULL ? hash_bytes_extended(NULL, 0, type) :
						   hash_bytes_extended((unsigned char *) VARDATA_ANY(event),
											   VARSIZE_ANY_EXHDR(event), type);
}

static bool
same_event(text *a, text *b)
{
	int len = b == NULL ? 0 : VARSIZE_ANY_EXHDR(b);

	return VARSIZE_ANY_EXHDR(a) == len &&
		(len == 0 || memcmp(VARDATA_ANY(a), VARDATA_ANY(b), len) == 0);
}

static CdpPlanMode
mode_of(const char *mode)
{
	return strcmp(mode, "quarantine") == 0 ? CDP_PLAN_QUARANTINE :
		strcmp(mode, "drop-property") == 0 ? CDP_PLAN_DROP :
											 CDP_PLAN_ALLOW;
}

/*
 * Read only: in the snapshot in which the generation was read.
 */
static int
query(const char *sql, int64 argument)
{
	Oid type = INT8OID;
	Datum arg = Int64GetDatum(argument);

	if (SPI_execute_with_args(sql, 1, &type, &arg, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read tracking plans");
	return SPI_processed;
}

static CdpPlanSet *
load_set(int64 key, const char *source)
{
	HASHCTL ctl = { .keysize = sizeof(uint64), .entrysize = sizeof(PlanSlot) };
	/* goes with the caller's context until it is complete */
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "cdp tracking plans",
												  ALLOCSET_SMALL_SIZES);
	CdpPlanSet *set = MemoryContextAllocZero(context, sizeof(CdpPlanSet));
	CdpUserContext user;

	set->context = context;
	set->extension = CdpSchemaOid();
	set->key = key;
	if (CdpTableIsVoid("plan_definitions"))
		return set;
	CdpBecomeOwner(&user);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	set->n = query(psprintf("SELECT d.type, d.event, d.version, d.schema, d.from_at,"
							" coalesce(d.until_at, 'infinity'), d.mode FROM %s d"
							" WHERE d.until_at IS NULL OR d.until_at > d.from_at"
							" ORDER BY d.type, d.event COLLATE \"C\", d.version",
							source),
				   key);
	ctl.hcxt = context;
	set->slots = hash_create("cdp tracking plans", Max(set->n, 16), &ctl,
							 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	set->plans = MemoryContextAllocZero(context, sizeof(CdpPlan) * Max(set->n, 1));
	for (int i = 0; i < set->n; i++)
	{
		CdpPlan *plan = &set->plans[i];
		PlanSlot *slot;
		uint64 slot_key;
		bool found;

		plan->type_name = (text *) CdpCellVarlena(i, 1, context);
		plan->type = CdpEntryTypeFromText(plan->type_name);
		plan->event = (text *) CdpCellVarlena(i, 2, context);
		plan->version = DatumGetInt32(CdpCell(i, 3, &found));
		plan->definition = (Jsonb *) CdpCellVarlena(i, 4, context);
		plan->from = CdpCellInt8(i, 5);
		plan->until = CdpCellInt8(i, 6);
		plan->mode = mode_of(TextDatumGetCString(CdpCell(i, 7, &found)));
		set->acts |= plan->mode != CDP_PLAN_ALLOW;
		slot_key = key_of(plan->type, plan->event);
		slot = hash_search(set->slots, &slot_key, HASH_ENTER, &found);
		plan->next = found ? slot->plans : NULL;
		slot->plans = plan;
	}
	set->nreleases = query("SELECT r.entry, r.corrected FROM cdp.plan_releases r"
						   " WHERE $1 IS NOT NULL ORDER BY r.entry",
						   key);
	set->releases = MemoryContextAllocHuge(context, sizeof(CdpPlanRelease) * (Size) Max(set->nreleases, 1));
	for (int i = 0; i < set->nreleases; i++)
	{
		bool isnull;

		set->releases[i].entry = CdpCellInt8(i, 1);
		set->releases[i].corrected = DatumGetBool(CdpCell(i, 2, &isnull));
		set->acts |= set->releases[i].corrected;
	}
	SPI_finish();
	CdpRestoreUser(&user);
	return set;
}

CdpPlanSet *
CdpPlanSetNow(void)
{
	int64 generation = CdpApplierGlance(NULL);
	CdpPlanSet *set;

	if (present != NULL && present->key == generation && present->extension == CdpSchemaOid())
		return present;
	set = load_set(generation, "(SELECT * FROM cdp.plan_definitions WHERE $1 IS NOT NULL)");
	MemoryContextSetParent(set->context, CacheMemoryContext);
	if (present != NULL)
		MemoryContextDelete(present->context);
	present = set;
	return set;
}

CdpPlanSet *
CdpPlanSetBefore(int64 change)
{
	ListCell *lc;
	CdpPlanSet *set;
	MemoryContext old;

	foreach(lc, sets_before)
	{
		set = lfirst(lc);
		if (set->key == change && set->extension == CdpSchemaOid())
			return set;
	}
	set = load_set(change, "cdp.plans_before($1)");
	MemoryContextSetParent(set->context, CacheMemoryContext);
	old = MemoryContextSwitchTo(CacheMemoryContext);
	sets_before = lappend(sets_before, set);
	MemoryContextSwitchTo(old);
	return set;
}

void
CdpPlanSetsForget(int64 change)
{
	Oid extension = CdpSchemaOid();
	ListCell *lc;

	foreach(lc, sets_before)
	{
		CdpPlanSet *set = lfirst(lc);

		if (set->key >= change && set->extension == extension)
			continue;
		sets_before = foreach_delete_current(sets_before, lc);
		MemoryContextDelete(set->context);
	}
}

/* The next plan that does more than count. */
static CdpPlan *
next_acting(CdpPlanSet *set, int *i)
{
	while (*i < set->n && set->plans[*i].mode == CDP_PLAN_ALLOW)
		(*i)++;
	return *i < set->n ? &set->plans[(*i)++] : NULL;
}

bool
CdpPlanSetsAlike(CdpPlanSet *a, CdpPlanSet *b)
{
	int i = 0;
	int j = 0;
	CdpPlan *x;
	CdpPlan *y;

	if (a == b)
		return true;
	do
	{
		x = next_acting(a, &i);
		y = next_acting(b, &j);
		if ((x == NULL) != (y == NULL))
			return false;
		if (x != NULL &&
			(x->type != y->type || !same_event(x->event, y->event) || x->mode != y->mode ||
			 x->from != y->from || x->until != y->until ||
			 VARSIZE(x->definition) != VARSIZE(y->definition) ||
			 memcmp(x->definition, y->definition, VARSIZE(x->definition)) != 0))
			return false;
	} while (x != NULL);
	return true;
}

CdpPlan *
CdpPlanOf(CdpPlanSet *set, CdpEntry *entry)
{
	uint64 key;
	PlanSlot *slot;

	if (set->n == 0)
		return NULL;
	key = key_of(entry->type, entry->event);
	slot = hash_search(set->slots, &key, HASH_FIND, NULL);
	for (CdpPlan *plan = slot ? slot->plans : NULL; plan != NULL; plan = plan->next)
		if (plan->type == entry->type && same_event(plan->event, entry->event) &&
			plan->from <= entry->received_at && entry->received_at < plan->until)
			return plan;
	return NULL;
}

List *
CdpPlanViolations(CdpPlanSet *set, CdpPlan *plan, CdpEntry *entry)
{
	Jsonb *properties = entry->properties;
	List *violations;

	if (plan->schema == NULL)
	{
		MemoryContext own = AllocSetContextCreate(CurrentMemoryContext, "cdp tracking plan",
												  ALLOCSET_SMALL_SIZES);

		plan->schema = CdpSchemaCompile(plan->definition, own);
		MemoryContextSetParent(own, set->context);
	}
	if (properties == NULL)
		properties = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum("{}")));
	(void) CdpSchemaValidate(plan->schema, properties, &violations);
	return violations;
}

char *
CdpPlanPath(const char *path)
{
	char *result = palloc(strlen(path) + 4);
	char *to = result;
	int len;

	while (*path != '\0')
	{
		int part = strcspn(path + 1, "/");

		*to++ = '/';
		if (part > 0 && strspn(path + 1, "0123456789") == part)
			*to++ = '*';
		else
		{
			memcpy(to, path + 1, part);
			to += part;
		}
		path += part + 1;
	}
	len = to - result;
	if (len > MAX_PATH)
		len = pg_mbcliplen(result, len, MAX_PATH);
	result[len] = '\0';
	return result;
}

static const CdpPlanRelease *
release_of(CdpPlanSet *set, int64 entry)
{
	int low = 0;
	int high = set->nreleases;

	while (low < high)
	{
		int middle = low + (high - low) / 2;

		if (set->releases[middle].entry < entry)
			low = middle + 1;
		else
			high = middle;
	}
	return low < set->nreleases && set->releases[low].entry == entry ? &set->releases[low] : NULL;
}

/*
 * Which plan, and what is wrong, without values.
 */
static char *
describe(CdpPlan *plan, List *violations)
{
	StringInfoData buf;
	List *named = NIL;
	ListCell *lc;
	ListCell *other;

	initStringInfo(&buf);
	if (VARSIZE_ANY_EXHDR(plan->event) > 0)
		appendStringInfo(&buf, "Plan of %s \"%s\", version %d:", text_to_cstring(plan->type_name),
						 text_to_cstring(plan->event), plan->version);
	else
		appendStringInfo(&buf, "Plan of %s, version %d:", text_to_cstring(plan->type_name),
						 plan->version);
	foreach(lc, violations)
	{
		CdpSchemaViolation *violation = lfirst(lc);
		char *text = psprintf("%s %s", CdpPlanPath(violation->path), violation->keyword);
		bool again = false;

		foreach(other, named)
			again |= strcmp(text, lfirst(other)) == 0;
		if (again)
			continue;
		if (list_length(named) == MAX_NAMED)
		{
			appendStringInfoString(&buf, ", …");
			break;
		}
		appendStringInfo(&buf, "%s%s%s", named == NIL ? " " : ", ", text[0] == ' ' ? "all of it" : "",
						 text);
		named = lappend(named, text);
	}
	return buf.data;
}

/*
 * The properties without those in which something is wrong, or the same if what
 * is wrong is in none of them.
 */
static Jsonb *
without_violations(Jsonb *properties, List *violations)
{
	ArrayBuildState *names = NULL;
	ListCell *lc;
	Datum array;

	if (properties == NULL || !JB_ROOT_IS_OBJECT(properties))
		return properties;
	foreach(lc, violations)
	{
		const char *path = ((CdpSchemaViolation *) lfirst(lc))->path;
		int len = path[0] == '/' ? strcspn(path + 1, "/") : -1;
		char *name;
		char *to;

		if (len < 0)
			continue;
		/* RFC 6901: ~1 is a slash and ~0 a tilde */
		name = to = pnstrdup(path + 1, len);
		for (char *from = name; *from != '\0'; from++)
			if (*from == '~')
				*to++ = *++from == '1' ? '/' : '~';
			else
				*to++ = *from;
		names = accumArrayResult(names, PointerGetDatum(cstring_to_text_with_len(name, to - name)),
								 false, TEXTOID, CurrentMemoryContext);
	}
	if (names == NULL)
		return properties;
	array = makeArrayResult(names, CurrentMemoryContext);
	return DatumGetJsonbP(DirectFunctionCall2(jsonb_delete_array, JsonbPGetDatum(properties), array));
}

/*
 * An entry is read: does it count, and with which properties?
 */
static void
read_entry(CdpPlanSet **plans, CdpKindSet *kinds, CdpEntry *entry)
{
	int64 serial = kinds == NULL ? 0 : CdpKindSetSerial(kinds);
	const CdpPlanRelease *release;
	CdpPlanSet *set;

	entry->plan = NULL;
	entry->violations = NIL;
	if (entry->whole != NULL)
		entry->properties = entry->whole;
	entry->whole = NULL;
	if (serial < 0)
		set = CdpPlanSetBefore(-serial);
	else
	{
		if (*plans == NULL)
			*plans = CdpPlanSetNow();
		set = *plans;
	}
	if (!set->acts)
		return;
	/* what a row says may change, so nothing but numbers can follow from it */
	if (entry->referenced ||
		(entry->properties != NULL && CdpReferenceKey(entry->properties) != NULL))
		return;
	entry->plan = CdpPlanOf(set, entry);
	if (entry->plan != NULL && entry->plan->mode != CDP_PLAN_ALLOW)
		entry->violations = CdpPlanViolations(set, entry->plan, entry);
	release = release_of(set, entry->id);
	if (release == NULL && entry->violations != NIL && entry->plan->mode == CDP_PLAN_DROP)
	{
		Jsonb *kept = without_violations(entry->properties, entry->violations);

		if (kept != entry->properties)
			entry->whole = entry->properties;
		entry->properties = kept;
		return;
	}
	/* a corrected entry never counts: of equally early copies the hash would choose */
	if (release == NULL ? entry->violations == NIL : !release->corrected)
		return;
	entry->reject_reason = CDP_PLAN_REASON;
	entry->reject_detail = entry->violations != NIL ?
		describe(entry->plan, entry->violations) :
		"It was corrected: a copy with other properties is in its place.";
	entry->reject_sqlstate = ERRCODE_CHECK_VIOLATION;
	entry->ncandidates = 0;
	entry->naccounts = 0;
}

void
CdpPlansInit(void)
{
	CdpGraphReadHook = read_entry;
}
