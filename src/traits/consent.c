/*-------------------------------------------------------------------------
 *
 * consent.c
 *	  What was said about a purpose: a hidden trait whose state keeps the last
 *	  word about each identifier.
 *
 *	  An entry speaks of a purpose when it is a consent call, or when its
 *	  context has preferences.  The word is the owner's.  It also takes the
 *	  place of whatever the other identifiers that the entry names have said
 *	  before: who refuses on a device, logs in there and agrees has agreed.
 *	  Should they be told apart later, each has its own last word again, for
 *	  the states of other owners do not count then.
 *
 *	  So an entry adds an item for each identifier that it names, and of the
 *	  items of an identifier the one of the latest entry stays, in a state, and
 *	  when states are combined.  An item is the hash of the identifier, a
 *	  letter, when the word ends to count, and the source of the entry:
 *
 *		key (8)  letter (1)  expires (8)  source
 *
 *	  g granted, d denied, u unset, s: somebody else in the entry spoke.
 *
 * IDENTIFICATION
 *	  src/traits/consent.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "port/pg_bswap.h"
#include "storage/shmem.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

#include "cdp.h"
#include "collect/extract.h"
#include "identity/identity.h"
#include "statement.h"
#include "traits/consent.h"
#include "traits/node.h"
#include "traits/traitset.h"

#define ITEM_HEADER		(CDP_CONSENT_KEY + 1 + 8)

typedef struct CdpPurpose
{
	int			nnames;
	char	  **names;			/* by which entries call it */
	Interval   *valid_for;		/* NULL: what is granted stays so */
} CdpPurpose;

static CdpStatement find_purpose = {
	"SELECT t.id FROM cdp.trait_definitions t"
	" WHERE t.key = $1 AND t.hidden AND t.aggregate IN ('consent', 'consent_latest')"
	" AND NOT EXISTS (SELECT FROM cdp.backfills b WHERE b.kind = 'trait'"
	" AND b.id = t.id AND b.replaces IS NOT NULL)",
	{"text"}
};

/* ---- definitions ---- */

static bool
option(const CdpDefinition *definition, const char *name, JsonbValue *v)
{
	return definition->options != NULL && JB_ROOT_IS_OBJECT(definition->options) &&
		getKeyJsonValueFromContainer(&definition->options->root, name, strlen(name), v) != NULL;
}

CdpPurpose *
CdpPurposeMake(const CdpDefinition *definition)
{
	CdpPurpose *purpose = (CdpPurpose *) palloc0(sizeof(CdpPurpose));
	JsonbValue	v;
	int			n = 0;

	if (option(definition, "names", &v) && v.type == jbvBinary &&
		JsonContainerIsArray(v.val.binary.data))
		n = JsonContainerSize(v.val.binary.data);
	purpose->names = (char **) palloc(mul_size(n + 1, sizeof(char *)));
	purpose->names[purpose->nnames++] = definition->key;
	for (int i = 0; i < n; i++)
	{
		JsonbValue *name = getIthJsonbValueFromContainer(v.val.binary.data, i);

		if (name->type == jbvString)
			purpose->names[purpose->nnames++] = pnstrdup(name->val.string.val,
														 name->val.string.len);
	}
	if (option(definition, "valid_for", &v))
		purpose->valid_for = CdpIntervalOption("valid_for", &v);
	return purpose;
}

/*
 * The trait that a purpose is; 0 when there is none.  Inside SPI.
 */
static int32
purpose_id(const char *name)
{
	Datum		arg = CStringGetTextDatum(name);
	int32		id = 0;
	bool		isnull;

	if (CdpRun(&find_purpose, &arg, NULL) > 0)
		id = DatumGetInt32(CdpCell(0, 1, &isnull));
	SPI_freetuptable(SPI_tuptable);
	return id;
}

int32
CdpPurposeId(const char *name)
{
	CdpUserContext saved;
	int32		id;

	CdpBecomeOwner(&saved);
	SPI_connect();
	id = purpose_id(name);
	SPI_finish();
	CdpRestoreUser(&saved);
	return id;
}

const char *
CdpPurposeName(const CdpTrait *trait)
{
	return trait->rules->definition->key;
}

/*
 * Make a purpose what it is to be, whether it is there or not.  The trait is
 * the extension's: nobody's departure must suspend it.
 */
void
CdpPurposeDefine(const char *name, bool latest, Jsonb *options, const char *description)
{
	CdpDefinition *definition = (CdpDefinition *) palloc0(sizeof(CdpDefinition));
	int32		id = CdpPurposeId(name);

	definition->name = "$";
	definition->hidden = true;
	definition->aggregate = latest ? CDP_AGG_CONSENT_LATEST : CDP_AGG_CONSENT;
	definition->key = pstrdup(name);
	definition->timezone = "UTC";
	definition->entity = "profile";
	definition->options = options;
	definition->description = unconstify(char *, description);
	definition->owner = GetUserNameFromId(CdpExtensionOwner(), false);
	if (id == 0)
		CdpDefinitionCreate(definition);
	else
	{
		CdpDefinition *old = CdpDefinitionReadId(id);

		definition->name = old->name;
		definition->type = old->type;
		CdpDefinitionAlter(old, definition);
	}
}

void
CdpPurposeDrop(int32 id)
{
	int32		version = CdpVersionOf(id);

	if (version != 0)
		CdpVersionDrop(version);
	CdpVersionDrop(id);
	CdpGenerationBump();
	(void) CdpTraitSetReload(NIL);
}

/* ---- entries ---- */

/* The object under a key. */
static JsonbContainer *
object_in(JsonbContainer *container, const char *key)
{
	JsonbValue	v;

	if (container == NULL || !JsonContainerIsObject(container) ||
		getKeyJsonValueFromContainer(container, key, strlen(key), &v) == NULL ||
		v.type != jbvBinary || !JsonContainerIsObject(v.val.binary.data))
		return NULL;
	return v.val.binary.data;
}

/*
 * Where an entry may have preferences: an object of categories with true or
 * false in a consent call or, as Segment's libraries have it, in the context;
 * and RudderStack's two lists.
 */
typedef struct Preferences
{
	JsonbContainer *called;
	JsonbContainer *categories;
	JsonbContainer *management;
} Preferences;

static bool
find_preferences(const CdpEntry *entry, Preferences *found)
{
	memset(found, 0, sizeof(*found));
	if (entry->type == CDP_ENTRY_CONSENT && entry->properties != NULL)
		found->called = object_in(&entry->properties->root, "preferences");
	if (!entry->isnull[CDP_EVENTS_CONTEXT])
	{
		Jsonb	   *context = DatumGetJsonbP(entry->values[CDP_EVENTS_CONTEXT]);

		found->categories = object_in(object_in(&context->root, "consent"), "categoryPreferences");
		found->management = object_in(&context->root, "consentManagement");
	}
	return found->called != NULL || found->categories != NULL || found->management != NULL;
}

/* Does the entry say something about consent? */
bool
CdpEntryConsents(const CdpEntry *entry)
{
	Preferences found;

	return entry->type == CDP_ENTRY_CONSENT || find_preferences(entry, &found);
}

static bool
is_called(const CdpPurpose *purpose, const JsonbValue *name)
{
	for (int i = 0; i < purpose->nnames; i++)
	{
		const char *known = purpose->names[i];
		int			len = strlen(known);
		int			j;

		if (len != name->val.string.len)
			continue;
		for (j = 0; j < len; j++)
			if (pg_ascii_tolower((unsigned char) known[j]) !=
				pg_ascii_tolower((unsigned char) name->val.string.val[j]))
				break;
		if (j == len)
			return true;
	}
	return false;
}

/*
 * What a consent call says about the purpose: its letter; 0: nothing.
 */
static char
word_of_call(const CdpPurpose *purpose, const CdpEntry *entry, TimestampTz *expires)
{
	JsonbContainer *properties;
	JsonbValue	v;

	if (entry->type != CDP_ENTRY_CONSENT || entry->properties == NULL)
		return 0;
	properties = &entry->properties->root;
	if (getKeyJsonValueFromContainer(properties, "purpose", strlen("purpose"), &v) == NULL ||
		v.type != jbvString || !is_called(purpose, &v))
		return 0;
	if (getKeyJsonValueFromContainer(properties, "expires", strlen("expires"), &v) != NULL &&
		v.type == jbvString)
		(void) CdpParseIsoTime(v.val.string.val, v.val.string.len, expires);
	if (getKeyJsonValueFromContainer(properties, "state", strlen("state"), &v) == NULL)
		return 0;
	return CdpConsentWordFromText(&v);
}

/* What is done with each preference of an entry. */
typedef void (*ForPreference) (void *arg, const JsonbValue *category, bool granted);

static void
each_category(JsonbContainer *object, ForPreference call, void *arg)
{
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	category = {0};
	JsonbValue	v;

	if (object == NULL)
		return;
	it = JsonbIteratorInit(object);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			category = v;
		else if (token == WJB_VALUE && v.type == jbvBool)
			call(arg, &category, v.val.boolean);
	}
}

static void
each_listed(JsonbContainer *object, const char *key, bool granted, ForPreference call, void *arg)
{
	JsonbValue	list;

	if (object == NULL ||
		getKeyJsonValueFromContainer(object, key, strlen(key), &list) == NULL ||
		list.type != jbvBinary || !JsonContainerIsArray(list.val.binary.data))
		return;
	for (uint32 i = 0; i < JsonContainerSize(list.val.binary.data); i++)
	{
		JsonbValue *category = getIthJsonbValueFromContainer(list.val.binary.data, i);

		if (category->type == jbvString)
			call(arg, category, granted);
		pfree(category);
	}
}

static void
each_preference(const CdpEntry *entry, ForPreference call, void *arg)
{
	Preferences found;

	if (!find_preferences(entry, &found))
		return;
	each_category(found.called, call, arg);
	each_category(found.categories, call, arg);
	each_listed(found.management, "allowedConsentIds", true, call, arg);
	each_listed(found.management, "deniedConsentIds", false, call, arg);
}

typedef struct PurposeWord
{
	const CdpPurpose *purpose;
	char		word;			/* 0: none so far */
} PurposeWord;

static void
add_word(void *arg, const JsonbValue *category, bool granted)
{
	PurposeWord *found = arg;

	if (found->word != CDP_CONSENT_DENIED && is_called(found->purpose, category))
		found->word = granted ? CDP_CONSENT_GRANTED : CDP_CONSENT_DENIED;
}

/*
 * The same of preferences: of several that mean the purpose, a no counts.
 */
static char
word_of_preferences(const CdpPurpose *purpose, const CdpEntry *entry)
{
	PurposeWord found = {purpose, 0};

	each_preference(entry, add_word, &found);
	return found.word;
}

typedef struct PreferenceList
{
	JsonbParseState *state;
	bool		granted;		/* which of them are wanted */
	int			n;
} PreferenceList;

static void
push_preference(void *arg, const JsonbValue *category, bool granted)
{
	PreferenceList *list = arg;
	JsonbValue	v;

	if (granted != list->granted)
		return;
	v = *category;
	(void) pushJsonbValue(&list->state, WJB_KEY, &v);
	v.type = jbvBool;
	v.val.boolean = granted;
	(void) pushJsonbValue(&list->state, WJB_VALUE, &v);
	list->n++;
}

/*
 * All preferences of an entry as the properties of a consent call; NULL when it
 * has none.
 */
Jsonb *
CdpConsentPreferences(const CdpEntry *entry)
{
	PreferenceList list = {NULL, true, 0};
	JsonbValue	key = {.type = jbvString};

	key.val.string.val = "preferences";
	key.val.string.len = strlen("preferences");
	(void) pushJsonbValue(&list.state, WJB_BEGIN_OBJECT, NULL);
	(void) pushJsonbValue(&list.state, WJB_KEY, &key);
	(void) pushJsonbValue(&list.state, WJB_BEGIN_OBJECT, NULL);
	/* of a key that comes twice the last value stays: no */
	each_preference(entry, push_preference, &list);
	list.granted = false;
	each_preference(entry, push_preference, &list);
	(void) pushJsonbValue(&list.state, WJB_END_OBJECT, NULL);
	if (list.n == 0)
		return NULL;
	return JsonbValueToJsonb(pushJsonbValue(&list.state, WJB_END_OBJECT, NULL));
}

PG_FUNCTION_INFO_V1(cdp_consent_preferences);

/*
 * cdp.consent_preferences(type text, properties jsonb, context jsonb) returns
 * jsonb: the preferences of an entry as one object; NULL when it has none.
 */
Datum
cdp_consent_preferences(PG_FUNCTION_ARGS)
{
	CdpEntry	entry = {0};
	Jsonb	   *result;
	text	   *type = PG_ARGISNULL(0) ? NULL : PG_GETARG_TEXT_PP(0);

	entry.type = type != NULL && VARSIZE_ANY_EXHDR(type) == strlen("consent") &&
		memcmp(VARDATA_ANY(type), "consent", strlen("consent")) == 0
		? CDP_ENTRY_CONSENT : CDP_ENTRY_TRACK;
	entry.properties = PG_ARGISNULL(1) ? NULL : PG_GETARG_JSONB_P(1);
	entry.isnull[CDP_EVENTS_CONTEXT] = PG_ARGISNULL(2);
	entry.values[CDP_EVENTS_CONTEXT] = PG_ARGISNULL(2) ? (Datum) 0 : PG_GETARG_DATUM(2);
	result = CdpConsentPreferences(&entry);
	if (result == NULL)
		PG_RETURN_NULL();
	PG_RETURN_DATUM(DirectFunctionCall2(jsonb_object_field, JsonbPGetDatum(result),
										CStringGetTextDatum("preferences")));
}

void
CdpConsentKey(const CdpIdentifier *identifier, char *key)
{
	uint64		hash = hash_bytes_extended((const unsigned char *) VARDATA_ANY(identifier),
										   VARSIZE_ANY_EXHDR(identifier), 0);

	hash = pg_hton64(hash);
	memcpy(key, &hash, CDP_CONSENT_KEY);
}

static Datum
make_item(const CdpIdentifier *identifier, char word, TimestampTz expires, const text *source)
{
	int			len = ITEM_HEADER + VARSIZE_ANY_EXHDR(source);
	bytea	   *item = (bytea *) palloc(VARHDRSZ + len);
	char	   *p = VARDATA(item);
	uint64		end = pg_hton64((uint64) expires);

	SET_VARSIZE(item, VARHDRSZ + len);
	CdpConsentKey(identifier, p);
	p[CDP_CONSENT_KEY] = word;
	memcpy(p + CDP_CONSENT_KEY + 1, &end, sizeof(end));
	memcpy(p + ITEM_HEADER, VARDATA_ANY(source), VARSIZE_ANY_EXHDR(source));
	return PointerGetDatum(item);
}

/*
 * What an entry adds; the number of items.
 */
int
CdpConsentItems(const CdpPurpose *purpose, int64 generation, const CdpEntry *entry,
				Datum **items)
{
	TimestampTz expires = DT_NOEND;
	char		word = word_of_call(purpose, entry, &expires);
	CdpIdentifier **named;
	int			n;

	if (word == 0)
		word = word_of_preferences(purpose, entry);
	if (word == 0)
		return 0;
	if (word == CDP_CONSENT_GRANTED && TIMESTAMP_IS_NOEND(expires) && purpose->valid_for)
		expires = CdpLocalShift(entry->at, purpose->valid_for, NULL, true);
	named = CdpEntryNamed(CdpKindSetGet(generation), entry, &n);
	*items = (Datum *) palloc(mul_size(Max(n, 1), sizeof(Datum)));
	for (int i = 0; i < n; i++)
		(*items)[i] = make_item(named[i], i == 0 ? word : CDP_CONSENT_SPOKEN_FOR,
								i == 0 ? expires : DT_NOEND, entry->source);
	return n;
}

/* ---- values ---- */

/* False for what is no item. */
static bool
read_item(const CdpItem *item, CdpConsentWord *word)
{
	const bytea *value = (const bytea *) DatumGetPointer(item->value);
	const char *p = VARDATA_ANY(value);
	uint64		end;

	if (VARSIZE_ANY_EXHDR(value) < ITEM_HEADER)
		return false;
	memcpy(word->key, p, CDP_CONSENT_KEY);
	word->letter = p[CDP_CONSENT_KEY];
	memcpy(&end, p + CDP_CONSENT_KEY + 1, sizeof(end));
	word->expires = (TimestampTz) pg_ntoh64(end);
	word->source = p + ITEM_HEADER;
	word->sourcelen = VARSIZE_ANY_EXHDR(value) - ITEM_HEADER;
	word->at = item->at;
	return true;
}

/*
 * granted, denied, or no value.  Restrictive: one that denies decides.  Latest:
 * the last word does, even when it has expired.
 */
bool
CdpConsentFinish(const CdpState *state, TimestampTz now, Datum *value, TimestampTz *next)
{
	bool		latest = state->rules->aggregate == CDP_AGG_CONSENT_LATEST;
	const CdpItem *last = NULL;
	char		found = 0;

	for (int i = 0; i < state->nitems; i++)
	{
		const CdpItem *item = &state->items[i];
		CdpConsentWord word;

		if (!read_item(item, &word) || word.letter == CDP_CONSENT_SPOKEN_FOR)
			continue;
		if (latest)
		{
			if (last != NULL && CdpOrderCompare(item->at, item->tie, last->at, last->tie) < 0)
				continue;
			last = item;
			found = 0;
		}
		if (word.letter == CDP_CONSENT_UNSET || word.expires <= now)
			continue;
		if (found != CDP_CONSENT_DENIED)
			found = word.letter;
		if (!latest && word.expires < *next)
			*next = word.expires;
	}
	if (last != NULL)
	{
		CdpConsentWord word;

		(void) read_item(last, &word);
		if (word.expires > now && word.expires < *next)
			*next = word.expires;
	}
	if (found == 0)
		return false;
	*value = CStringGetTextDatum(CdpConsentWordName(found));
	return true;
}

const char *
CdpConsentWordName(char letter)
{
	return letter == CDP_CONSENT_GRANTED ? "granted" :
		letter == CDP_CONSENT_DENIED ? "denied" : "unset";
}

bool
CdpConsentGranted(const CdpProfileValues *values, int trait)
{
	text	   *value;

	if (trait < 0 || values->isnull[trait])
		return false;
	value = DatumGetTextPP(values->values[trait]);
	return VARSIZE_ANY_EXHDR(value) == strlen("granted") &&
		memcmp(VARDATA_ANY(value), "granted", strlen("granted")) == 0;
}

/*
 * The last words about the identifiers of a profile, what others have said in
 * their place left out.
 */
int
CdpConsentWords(CdpTraitSet *set, int trait, CdpNodeAcc **nodes, int nnodes,
				CdpConsentWord **words)
{
	CdpState   *state = CdpStateMake(&set->traits[trait]->rules->state);
	int			n = 0;

	for (int i = 0; i < nnodes; i++)
	{
		CdpState   *part = CdpNodeState(nodes[i], trait);

		if (part != NULL)
			CdpStateCombine(state, part);
	}
	*words = (CdpConsentWord *) palloc(mul_size(Max(state->nitems, 1), sizeof(CdpConsentWord)));
	for (int i = 0; i < state->nitems; i++)
		if (read_item(&state->items[i], &(*words)[n]) &&
			(*words)[n].letter != CDP_CONSENT_SPOKEN_FOR)
			n++;
	return n;
}
