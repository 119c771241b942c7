/*-------------------------------------------------------------------------
 *
 * define.c
 *	  create_segment, alter_segment, rename_segment, drop_segment.
 *
 *	  Order in every call: the applier's lock, then snapshots.  Texts are
 *	  checked as the caller, tables are written as the extension's owner.  The
 *	  hook at the end fills traits and memberships from history, in the same
 *	  transaction.
 *
 * IDENTIFICATION
 *	  src/segments/define.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "pgtime.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/snapmgr.h"

#include "cdp.h"
#include "compat.h"
#include "segments/predicate.h"

/* What the definition that was last stored has come to. */
static struct
{
	int32		id;				/* 0: nothing is known */
	int64		members;
	int64		entered;
	int64		exited;
}			told;

void
CdpSegmentTold(int32 id, int64 members, int64 entered, int64 exited)
{
	if (told.id != id)
		return;
	told.members = members;
	told.entered = entered;
	told.exited = exited;
}

static char *
text_argument(FunctionCallInfo fcinfo, int n)
{
	return PG_ARGISNULL(n) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(n));
}

static char *
required_argument(FunctionCallInfo fcinfo, int n, const char *name)
{
	if (PG_ARGISNULL(n))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument \"%s\" must not be null", name)));
	return text_argument(fcinfo, n);
}

static void
check_name(const char *name)
{
	bool		good = strlen(name) <= CDP_SEGMENT_NAME_MAX &&
		(name[0] == '_' || (name[0] >= 'a' && name[0] <= 'z'));

	for (const char *c = name; *c && good; c++)
		good = *c == '_' || (*c >= 'a' && *c <= 'z') || (*c >= '0' && *c <= '9');
	if (!good)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("invalid name of a segment: \"%s\"", name),
				 errdetail("A name consists of at most %d lower-case letters, digits and underscores and does not begin with a digit.",
						   CDP_SEGMENT_NAME_MAX)));
}

void
CdpSegmentCheckTimezone(const char *timezone)
{
	pg_tz	   *tz = pg_tzset(timezone);

	if (tz == NULL || !pg_tz_acceptable(tz))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("time zone \"%s\" not recognized", timezone)));
}

static void
check_options(Jsonb *options, bool accounts)
{
	JsonbIterator *iterator;
	JsonbValue	value;

	if (!JB_ROOT_IS_OBJECT(options))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("options of a segment must be a JSON object")));
	iterator = JsonbIteratorInit(&options->root);
	(void) JsonbIteratorNext(&iterator, &value, true);
	while (JsonbIteratorNext(&iterator, &value, true) == WJB_KEY)
	{
		char	   *name = pnstrdup(value.val.string.val, value.val.string.len);

		(void) JsonbIteratorNext(&iterator, &value, true);
		if (strcmp(name, "purpose") != 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("unrecognized option \"%s\" of a segment", name),
					 errhint("The option of a segment is \"purpose\".")));
		if (value.type != jbvNull && value.type != jbvString)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("option \"purpose\" must be the name of a purpose")));
		if (value.type == jbvString && accounts)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("segments of accounts have no purpose"),
					 errdetail("It is persons who consent.")));
	}
}

char *
CdpSegmentPurpose(const Jsonb *options)
{
	JsonbValue	value;

	if (!JB_ROOT_IS_OBJECT(options) ||
		getKeyJsonValueFromContainer((JsonbContainer *) &options->root, "purpose",
									 strlen("purpose"), &value) == NULL ||
		value.type != jbvString)
		return NULL;
	return pnstrdup(value.val.string.val, value.val.string.len);
}

/*
 * What every call does first.
 */
static void
begin_definition(void)
{
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("segments cannot be changed in a transaction of isolation level REPEATABLE READ or SERIALIZABLE"),
				 errhint("Use READ COMMITTED.")));
	CdpApplierLock();
}

/*
 * Read a definition that must exist and that the caller may change: he owns
 * it, or he is a superuser.  What nobody owns any more only the owner of the
 * extension and superusers may change.
 */
static void
read_own_definition(const char *name, CdpSegmentDefinition *out)
{
	Oid			owner;

	if (!CdpSegmentDefinitionRead(name, out))
		CdpSegmentMissing(name);
	owner = get_role_oid(out->owner, true);
	if (!OidIsValid(owner))
		owner = CdpExtensionOwner();
	if (!has_privs_of_role(GetUserId(), owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of segment \"%s\"", name)));
}

/*
 * Most of what marketing sends needs a name or an address.
 */
static void
notice_anonymous(const CdpSegmentDefinition *definition)
{
	if (CdpSegmentsExecute("SELECT FROM cdp.segment_members m"
						 " WHERE m.segment_id = $1 AND m.member"
						 " HAVING count(*) < 2 * count(*) FILTER (WHERE NOT EXISTS ("
						 " SELECT FROM cdp.identities i WHERE i.profile_id = m.profile_id"
						 " AND cdp.kind(i.identifier) IN ('user_id', 'email')))",
						 definition->id, NULL) > 0)
		ereport(NOTICE,
				(errmsg("more than half of the members of segment \"%s\" are anonymous",
						definition->name),
				 errdetail("Their profiles have neither a user_id nor an email identifier.")));
}

/*
 * Check the texts as the owner, who becomes the owner of what they need.
 */
void
CdpSegmentTextsDefine(const CdpSegmentDefinition *definition, CdpReferences *references,
					  List **created)
{
	Oid			owner = get_role_oid(definition->owner, true);
	Oid			userid;
	int			sec_context;

	GetUserIdAndSecContext(&userid, &sec_context);
	if (OidIsValid(owner) && owner != userid)
		SetUserIdAndSecContext(owner, sec_context | SECURITY_LOCAL_USERID_CHANGE);
	references->accounts = definition->accounts;
	CdpPredicateDefine(definition->predicate, definition->timezone, "predicate",
					   references, created);
	if (definition->exit_when != NULL)
		CdpPredicateDefine(definition->exit_when, definition->timezone, "exit_when",
						   references, created);
	SetUserIdAndSecContext(userid, sec_context);
	if (definition->options != NULL && CdpSegmentPurpose(definition->options) != NULL)
		CdpPurposeRefer(CdpSegmentPurpose(definition->options), references);
	references->segment_ids = list_concat_unique_int(references->segment_ids,
													 definition->exclude);
}

/*
 * Is it evaluated as it is stored now?
 */
static bool
is_live(const CdpSegmentDefinition *definition)
{
	CdpTraitSet *traits = definition->accounts ? CdpAccountTraitSetFresh() : CdpTraitSetFresh();
	bool		live;

	PushActiveSnapshot(GetTransactionSnapshot());
	live = CdpSegmentById(CdpSegmentSetGet(-1, traits), definition->id) != NULL;
	PopActiveSnapshot();
	return live;
}

static void
notice_waiting(const CdpSegmentDefinition *definition, const char *meanwhile)
{
	ereport(NOTICE,
			(errmsg("the applier works out the members of segment \"%s\"", definition->name),
			 errdetail("Until that is done, the segment %s.", meanwhile),
			 errhint("See cdp.progress; cdp.wait_backfill() waits for it.")));
}

void
CdpSegmentStore(CdpSegmentDefinition *definition, bool tell)
{
	CdpReferences references = {0};
	List	   *created = NIL;
	bool		is_new = definition->id == 0;
	CdpTraitSet *traits;
	CdpSegmentSet *set;
	ListCell   *lc;
	bool		live = !is_new && definition->enabled && is_live(definition);

	CdpSegmentTextsDefine(definition, &references, &created);
	CdpSegmentCycleCheck(definition, &references);
	CdpMembersSegmentCheck(definition, &references);
	if (!is_new)
		(void) CdpSegmentVersionDrop(definition->id);
	if (created != NIL && CdpBackfillLater())
	{
		foreach(lc, created)
			CdpBackfillBegin("trait", lfirst_int(lc), 0, true);
	}
	if (live && CdpSegmentVersionNeeded(&references, created))
	{
		CdpSegmentVersionKeep(definition, &references);
		CdpSegmentsUnnamedPrune();
		CdpGenerationBump();
		notice_waiting(definition, "stays as it was");
		return;
	}
	CdpSegmentDefinitionWrite(definition, &references);
	CdpDependsSet("segment", definition->id, references.trait_ids);
	if (!is_new)
	{
		(void) CdpSegmentsExecute("UPDATE cdp.segment_errors SET suspended = false"
								  " WHERE segment_id = $1", definition->id, NULL);
		CdpSegmentsUnnamedPrune();
	}
	CdpGenerationBump();

	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
	traits = definition->accounts ? CdpAccountTraitSetGet(-1) : CdpTraitSetGet(-1);
	set = CdpSegmentSetGet(-1, traits);
	if (definition->enabled && CdpSegmentById(set, definition->id) == NULL &&
		!CdpSegmentWaits(set, CdpSegmentColumn(set, definition->id)))
		elog(ERROR, "segment \"%s\" was stored and cannot be read", definition->name);
	if (CdpBackfillHook != NULL)
		CdpBackfillHook(created, definition->enabled ? CdpSegmentDependents(definition->id) : NIL,
						false);
	PopActiveSnapshot();
	CommandCounterIncrement();
	if (CdpSegmentsExecute("SELECT FROM cdp.backfills b WHERE b.kind = 'segment' AND b.id = $1",
						   definition->id, NULL) > 0)
	{
		if (tell)
			notice_waiting(definition, is_new ? "has no members" : "keeps the members that it has");
		if (is_new)
			(void) CdpSegmentsExecute("UPDATE cdp.backfills SET fresh = true"
									  " WHERE kind = 'segment' AND id = $1", definition->id, NULL);
	}
	else if (is_new && !definition->accounts)
		notice_anonymous(definition);
}

static void
tell_of(int32 id)
{
	told.id = id;
	told.members = -1;
}

/*
 * The row that alter_segment and reevaluate_segment return: version, members,
 * entered, exited.
 */
static Datum
difference(FunctionCallInfo fcinfo, int version)
{
	TupleDesc	desc;
	Datum		values[4];
	bool		nulls[4] = {false};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	values[0] = Int32GetDatum(version);
	values[1] = Int64GetDatum(told.members);
	values[2] = Int64GetDatum(told.entered);
	values[3] = Int64GetDatum(told.exited);
	nulls[1] = nulls[2] = nulls[3] = told.members < 0;
	told.id = 0;
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls));
}

static bool
same_text(const char *a, const char *b)
{
	return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

/*
 * Store what differs from the old definition; recompute only when who is in
 * the segment may have changed.
 */
static void
store_changes(CdpSegmentDefinition *new, const CdpSegmentDefinition *old)
{
	Oid			types[] = {INT4OID, TEXTOID, JSONBOID, TEXTOID, BOOLOID};
	Datum		values[5];
	char		nulls[6] = "     ";
	CdpUserContext saved;

	if (!same_text(new->predicate, old->predicate) ||
		!same_text(new->exit_when, old->exit_when) ||
		!same_text(new->timezone, old->timezone) ||
		!same_text(new->owner, old->owner) ||
		!equal(new->exclude, old->exclude) || new->holdout != old->holdout ||
		!same_text(new->seed, old->seed) ||
		!same_text(CdpSegmentPurpose(new->options), CdpSegmentPurpose(old->options)) ||
		(new->enabled && !old->enabled))
	{
		CdpSegmentStore(new, true);
		return;
	}
	if (CdpSegmentVersionDrop(new->id))
		CdpSegmentsUnnamedPrune();

	values[0] = Int32GetDatum(new->id);
	values[1] = (Datum) 0;
	if (new->description != NULL)
		values[1] = CStringGetTextDatum(new->description);
	else
		nulls[1] = 'n';
	values[2] = JsonbPGetDatum(new->options);
	values[3] = CStringGetTextDatum(new->owner);
	values[4] = BoolGetDatum(new->enabled);
	CdpBecomeOwner(&saved);
	SPI_connect();
	if (SPI_execute_with_args("UPDATE cdp.segment_definitions SET description = $2,"
							  " options = $3, owner = $4, enabled = $5,"
							  " altered_at = cdp.clock() WHERE id = $1",
							  5, types, values, nulls, false, 0) != SPI_OK_UPDATE)
		elog(ERROR, "could not store the definition of a segment");
	SPI_finish();
	CdpRestoreUser(&saved);
	CdpGenerationBump();
}

/*
 * Is it suspended already, whatever becomes of its traits?
 */
static bool
was_suspended(int32 id)
{
	return CdpSegmentsExecute("SELECT FROM cdp.segment_definitions d WHERE d.id = $1"
							  " AND (d.owner <> ALL (SELECT r.rolname FROM pg_catalog.pg_roles r)"
							  " OR EXISTS (SELECT FROM cdp.segment_errors e"
							  " WHERE e.segment_id = d.id AND e.suspended))",
							  id, NULL) > 0;
}

/*
 * CdpTraitAlteredHook: definitions refer to traits by id.
 */
static void
trait_altered(int32 old_id, int32 new_id, bool published)
{
	List	   *ids;
	ListCell   *lc;
	CdpSegmentSet *set;

	if (!published)
	{
		if (old_id != new_id)
			(void) CdpSegmentsExecute(psprintf("UPDATE cdp.segment_definitions"
											   " SET trait_ids = array_replace(trait_ids, $1, %d)"
											   " WHERE $1 = ANY (trait_ids)", new_id),
									  old_id, NULL);
		return;
	}

	ids = CdpSegmentsOfTrait(new_id);
	if (ids == NIL)
		return;
	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
	foreach(lc, ids)
	{
		set = CdpSegmentSetGet(-1, CdpTraitSetGet(-1));
		if (CdpSegmentColumn(set, lfirst_int(lc)) < 0)
			set = CdpSegmentSetGet(-1, CdpAccountTraitSetGet(-1));
		if (CdpSegmentById(set, lfirst_int(lc)) == NULL &&
			!CdpSegmentWaits(set, CdpSegmentColumn(set, lfirst_int(lc))) &&
			!was_suspended(lfirst_int(lc)))
			ereport(ERROR,
					(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
					 errmsg("cannot change the trait because segment \"%s\" could no longer be evaluated",
							CdpSegmentAsking(lfirst_int(lc))),
					 errhint("Change the segment first.")));
	}
	if (CdpBackfillHook != NULL)
		CdpBackfillHook(NIL, ids, false);
	PopActiveSnapshot();
}

void
CdpSegmentsInit(void)
{
	CdpTraitAlteredHook = trait_altered;
}

/* ---- functions ---- */

double
CdpSegmentCheckHoldout(double holdout)
{
	if (!(holdout >= 0 && holdout < 1))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("holdout must be a fraction: at least 0 and less than 1")));
	return holdout;
}

/*
 * Names of segments, of profiles or of accounts, to ids, in the order of ids.
 */
List *
CdpSegmentIds(ArrayType *names, bool accounts)
{
	Datum	   *elements;
	bool	   *nulls;
	int			n;
	List	   *ids = NIL;

	deconstruct_array(names, TEXTOID, -1, false, TYPALIGN_INT, &elements, &nulls, &n);
	for (int i = 0; i < n; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("names of segments to exclude must not be null")));
		ids = list_append_unique_int(ids, CdpSegmentIdOfEntity(TextDatumGetCString(elements[i]), accounts));
	}
	list_sort(ids, list_int_cmp);
	return ids;
}

/*
 * Is the entity that of accounts, and not profiles?
 */
bool
CdpSegmentOfAccounts(const char *entity)
{
	bool		accounts = strcmp(entity, "account") == 0;

	if (strcmp(entity, "profile") != 0 && !accounts)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unrecognized entity \"%s\"", entity),
				 errhint("Segments are made of entity \"profile\" or \"account\".")));
	return accounts;
}

PG_FUNCTION_INFO_V1(cdp_create_segment);

/*
 * cdp.create_segment(name, predicate, entity, description, exit_when,
 * timezone, options, if_exists, exclude, holdout, seed)
 */
Datum
cdp_create_segment(PG_FUNCTION_ARGS)
{
	CdpSegmentDefinition	definition = {0};
	CdpSegmentDefinition	existing;
	char	   *name = required_argument(fcinfo, 0, "name");
	char	   *predicate = required_argument(fcinfo, 1, "predicate");
	char	   *entity = required_argument(fcinfo, 2, "entity");
	char	   *if_exists = required_argument(fcinfo, 7, "if_exists");

	definition.name = name;
	definition.predicate = predicate;
	definition.description = text_argument(fcinfo, 3);
	if (!PG_ARGISNULL(4))
		definition.exit_when = CdpPredicateFromText(text_argument(fcinfo, 4));
	definition.timezone = required_argument(fcinfo, 5, "timezone");
	definition.options = PG_ARGISNULL(6) ?
		DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum("{}"))) :
		PG_GETARG_JSONB_P(6);
	definition.exclude = NIL;
	definition.holdout = PG_ARGISNULL(9) ? 0 : CdpSegmentCheckHoldout(PG_GETARG_FLOAT8(9));
	definition.seed = PG_ARGISNULL(10) ? name : text_argument(fcinfo, 10);
	definition.enabled = true;
	definition.owner = GetUserNameFromId(GetUserId(), false);

	check_name(name);
	definition.accounts = CdpSegmentOfAccounts(entity);
	if (strcmp(if_exists, "error") != 0 && strcmp(if_exists, "replace") != 0 &&
		strcmp(if_exists, "skip") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unrecognized value \"%s\" of argument \"if_exists\"", if_exists),
				 errhint("It is error, replace or skip.")));
	CdpSegmentCheckTimezone(definition.timezone);
	check_options(definition.options, definition.accounts);

	begin_definition();
	if (!PG_ARGISNULL(8))
		definition.exclude = CdpSegmentIds(PG_GETARG_ARRAYTYPE_P(8), definition.accounts);
	if (CdpSegmentDefinitionRead(name, &existing))
	{
		if (strcmp(if_exists, "error") == 0)
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_OBJECT),
					 errmsg("segment \"%s\" already exists", name),
					 errhint("Use cdp.alter_segment(), or if_exists => 'replace'.")));
		if (strcmp(if_exists, "skip") == 0)
		{
			ereport(NOTICE,
					(errcode(ERRCODE_DUPLICATE_OBJECT),
					 errmsg("segment \"%s\" already exists, skipping", name)));
			PG_RETURN_VOID();
		}
		read_own_definition(name, &existing);
		definition.id = existing.id;
		definition.owner = existing.owner;
		definition.enabled = existing.enabled;
		store_changes(&definition, &existing);
		PG_RETURN_VOID();
	}
	CdpSegmentStore(&definition, true);
	PG_RETURN_VOID();
}

/*
 * A new owner must be a role that the caller could have used himself.
 */
static char *
check_new_owner(const char *name)
{
	Oid			owner = get_role_oid(name, false);

	CdpCheckCanSetRole(GetUserId(), owner);
	return pstrdup(name);
}

/*
 * The new value of a text that an empty string removes.
 */
static char *
removable_argument(FunctionCallInfo fcinfo, int n, char *old)
{
	char	   *new = text_argument(fcinfo, n);

	if (new == NULL)
		return old;
	return new[0] == '\0' ? NULL : new;
}

PG_FUNCTION_INFO_V1(cdp_alter_segment);

/*
 * cdp.alter_segment(name, predicate, description, exit_when, timezone,
 * options, enabled, owner, exclude, holdout, seed): NULL leaves as it is, an empty text removes.
 */
Datum
cdp_alter_segment(PG_FUNCTION_ARGS)
{
	CdpSegmentDefinition	definition;
	CdpSegmentDefinition	old;
	char	   *name = required_argument(fcinfo, 0, "name");

	begin_definition();
	read_own_definition(name, &old);
	definition = old;
	/* what is not asked for stays as it was asked for last */
	(void) CdpSegmentVersionRead(&definition);
	if (!PG_ARGISNULL(1))
		definition.predicate = text_argument(fcinfo, 1);
	definition.description = removable_argument(fcinfo, 2, definition.description);
	definition.exit_when = removable_argument(fcinfo, 3, definition.exit_when);
	if (!PG_ARGISNULL(3) && definition.exit_when != NULL)
		definition.exit_when = CdpPredicateFromText(definition.exit_when);
	if (!PG_ARGISNULL(4))
	{
		definition.timezone = text_argument(fcinfo, 4);
		CdpSegmentCheckTimezone(definition.timezone);
	}
	if (!PG_ARGISNULL(5))
	{
		definition.options = PG_GETARG_JSONB_P(5);
		check_options(definition.options, definition.accounts);
	}
	if (!PG_ARGISNULL(6))
		definition.enabled = PG_GETARG_BOOL(6);
	if (!PG_ARGISNULL(7))
		definition.owner = check_new_owner(text_argument(fcinfo, 7));
	if (!PG_ARGISNULL(8))
		definition.exclude = CdpSegmentIds(PG_GETARG_ARRAYTYPE_P(8), definition.accounts);
	if (!PG_ARGISNULL(9))
		definition.holdout = CdpSegmentCheckHoldout(PG_GETARG_FLOAT8(9));
	if (!PG_ARGISNULL(10))
		definition.seed = text_argument(fcinfo, 10);
	tell_of(definition.id);
	store_changes(&definition, &old);
	(void) CdpSegmentDefinitionRead(name, &definition);
	PG_RETURN_DATUM(difference(fcinfo, definition.version));
}

static void
refuse_suspended(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("segment \"%s\" is not evaluated", name),
			 errhint("See the column \"state\" of cdp.segments.")));
}

/*
 * Did entries come that were not counted for it, because it was suspended?
 */
static bool
misses_entries(int32 id)
{
	return CdpSegmentIntegers("SELECT t.id FROM cdp.trait_definitions t"
							  " JOIN cdp.missed_traits e ON e.id = t.id"
							  " JOIN cdp.definition_depends d ON d.trait_id = t.id AND d.kind = 'segment'"
							  " WHERE t.hidden"
							  " AND (d.id = $1 OR d.id IN (SELECT h.id FROM cdp.segment_definitions s"
							  " JOIN cdp.segment_definitions h ON h.hidden AND h.id = ANY (s.segment_ids)"
							  " WHERE s.id = $1)) LIMIT 1",
							  id) != NIL;
}

PG_FUNCTION_INFO_V1(cdp_reevaluate_segment);

/*
 * cdp.reevaluate_segment(name): for everybody, and for the segments that refer
 * to it.
 */
Datum
cdp_reevaluate_segment(PG_FUNCTION_ARGS)
{
	char	   *name = text_argument(fcinfo, 0);
	CdpSegmentDefinition definition;
	CdpTraitSet *traits;
	CdpSegmentSet *set;
	List	   *ids;

	begin_definition();
	read_own_definition(name, &definition);
	if (!OidIsValid(get_role_oid(definition.owner, true)))
		refuse_suspended(name);
	if (definition.enabled && misses_entries(definition.id))
	{
		/* with hidden traits that are new, for which history is folded */
		tell_of(definition.id);
		CdpSegmentStore(&definition, true);
		(void) CdpSegmentDefinitionRead(name, &definition);
		PG_RETURN_DATUM(difference(fcinfo, definition.version));
	}
	ids = list_concat_unique_int(CdpSegmentsUnnamedOf(definition.id),
								 CdpSegmentDependents(definition.id));
	(void) CdpSegmentsExecute("UPDATE cdp.segment_errors SET suspended = false"
							  " WHERE segment_id = $1", definition.id, NULL);
	CdpGenerationBump();
	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
	traits = definition.accounts ? CdpAccountTraitSetGet(-1) : CdpTraitSetGet(-1);
	set = CdpSegmentSetGet(-1, traits);
	if (CdpSegmentById(set, definition.id) == NULL &&
		!CdpSegmentWaits(set, CdpSegmentColumn(set, definition.id)))
		refuse_suspended(name);
	tell_of(definition.id);
	if (CdpBackfillHook != NULL)
		CdpBackfillHook(NIL, ids, false);
	PopActiveSnapshot();
	PG_RETURN_DATUM(difference(fcinfo, definition.version));
}

PG_FUNCTION_INFO_V1(cdp_rename_segment);

/*
 * cdp.rename_segment(name, new_name)
 */
Datum
cdp_rename_segment(PG_FUNCTION_ARGS)
{
	char	   *name = text_argument(fcinfo, 0);
	char	   *new_name = text_argument(fcinfo, 1);
	CdpSegmentDefinition	definition;
	CdpSegmentDefinition	other;

	check_name(new_name);
	begin_definition();
	read_own_definition(name, &definition);
	if (CdpSegmentDefinitionRead(new_name, &other))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("segment \"%s\" already exists", new_name)));
	CdpSegmentRenameIn(definition.id, name, new_name);
	(void) CdpSegmentsExecute("UPDATE cdp.segment_definitions SET name = $2,"
							" channel = '" CDP_SEGMENT_CHANNEL "' || $2,"
							" altered_at = cdp.clock() WHERE id = $1",
							definition.id, new_name);
	CdpGenerationBump();
	PG_RETURN_VOID();
}

void
CdpSegmentForget(int32 id)
{
	(void) CdpSegmentsExecute("UPDATE cdp.identities i"
							" SET segments = array_remove(i.segments, $1)"
							" FROM cdp.segment_members m"
							" WHERE m.segment_id = $1 AND m.member"
							" AND i.node_id = m.profile_id", id, NULL);
	(void) CdpSegmentsExecute("UPDATE cdp.account_identities i"
							" SET segments = array_remove(i.segments, $1)"
							" FROM cdp.segment_members m"
							" WHERE m.segment_id = $1 AND m.member"
							" AND i.account_id = m.profile_id", id, NULL);
	(void) CdpSegmentsExecute("DELETE FROM cdp.segment_members WHERE segment_id = $1",
							id, NULL);
	(void) CdpSegmentsExecute("DELETE FROM cdp.segment_errors WHERE segment_id = $1",
							id, NULL);
	(void) CdpSegmentsExecute("DELETE FROM cdp.segment_evaluations WHERE segment_id = $1",
							id, NULL);
	(void) CdpSegmentsExecute("DELETE FROM cdp.segment_definitions WHERE id = $1",
							id, NULL);
	(void) CdpSegmentVersionDrop(id);
	(void) CdpBackfillEnd("segment", id);
	CdpDependsSet("segment", id, NIL);
}

PG_FUNCTION_INFO_V1(cdp_drop_segment);

/*
 * cdp.drop_segment(name, cascade)
 */
Datum
cdp_drop_segment(PG_FUNCTION_ARGS)
{
	char	   *name = text_argument(fcinfo, 0);
	bool		cascade = PG_GETARG_BOOL(1);
	CdpSegmentDefinition	definition;
	List	   *ids;
	List	   *others = NIL;
	ListCell   *lc;

	begin_definition();
	read_own_definition(name, &definition);
	ids = CdpSegmentDependents(definition.id);
	for_each_from(lc, ids, 1)
	{
		char	   *other = CdpSegmentNameById(lfirst_int(lc));

		/* hidden ones go with those who refer to them */
		if (other[0] != '$')
			others = lappend(others, other);
	}
	if (others != NIL)
	{
		StringInfoData names;

		initStringInfo(&names);
		foreach(lc, others)
			appendStringInfo(&names, "%s\"%s\"", names.len > 0 ? ", " : "",
							 (char *) lfirst(lc));
		if (!cascade)
			ereport(ERROR,
					(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
					 errmsg("cannot drop segment \"%s\" because other segments refer to it",
							name),
					 errdetail("They are %s.", names.data),
					 errhint("Use cascade => true to drop them too.")));
		foreach(lc, others)
		{
			CdpSegmentDefinition	other;

			read_own_definition((char *) lfirst(lc), &other);
		}
		ereport(NOTICE,
				(errmsg("drop cascades to segments %s", names.data)));
	}
	foreach(lc, ids)
		CdpSegmentForget(lfirst_int(lc));
	CdpSegmentsUnnamedPrune();
	CdpGenerationBump();
	PG_RETURN_VOID();
}
